"""Users' rows: which format they are of, what they become, and what is said of wrong ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny_chat
from tiny_chat import tokens_of

from autopeft.errors import AutopeftError
from autopeft.formats import FORMATS, Conversation, Options, Part, Turn, detect

ASKED, SAID = "What is it?", "It is that."
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]},
    "sharegpt": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]},
    "alpaca": {"instruction": "What", "input": "is it?", "output": SAID},
    "question_answer": {"question": ASKED, "answer": SAID},
    "prompt_completion": {"prompt": ASKED, "completion": SAID},
    "pair": {"source": ASKED, "target": SAID},
    "translation": {"translation": {"en": ASKED, "de": SAID}},
    "text": {"text": SAID},
}
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
#: What stands before the scored part, what is scored, what follows: by hand.
BY_HAND = {
    "messages": (CHAT.format(ASKED), f"{SAID}<|im_end|>", "\n"),
    "sharegpt": (CHAT.format(ASKED), f"{SAID}<|im_end|>", "\n"),
    "alpaca": (CHAT.format("What\nis it?"), f"{SAID}<|im_end|>", "\n"),
    "question_answer": (CHAT.format(ASKED), f"{SAID}<|im_end|>", "\n"),
    "prompt_completion": (f"<s>{ASKED}", f"{SAID}</s>", ""),
    "pair": (f"<s>{ASKED}\n", f"{SAID}</s>", ""),
    "translation": (f"<s>{ASKED}\n", f"{SAID}</s>", ""),
    "text": ("<s>", f"{SAID}</s>", ""),
}


def read(
    row: dict[str, Any], asked: str | None = None, columns: dict[str, str] | None = None, **options: Any
) -> Conversation:
    return detect(list(row), asked, columns, "f").conversation(row, Options(**options), "f:3")


def complaint(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(AutopeftError) as caught:
        read(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def turns(*pairs: tuple[str, str]) -> Conversation:
    return Conversation(tuple(Turn(role, text, role == "assistant") for role, text in pairs))


@pytest.mark.parametrize("name", ROWS)
def test_each_format_is_found_and_gives_the_ids_and_masks_of_hand_written_ones(name: str) -> None:
    assert set(ROWS) == set(FORMATS.names())
    row = ROWS[name]
    assert detect([*row, "id", "source_url"], None, None, "f").format.name == name
    tokenizer = tiny_chat.tokenizer(begins=True)
    got = tokens_of(read(row), tokenizer, 10**6)
    before, scored, after = (tokenizer.encode(text, add_special_tokens=False) for text in BY_HAND[name])
    assert got.ids == before + scored + after
    assert got.scored == [False] * len(before) + [True] * len(scored) + [False] * len(after)
    assert Conversation.from_json(read(row).to_json()) == read(row)


def test_rows_of_other_shapes() -> None:
    same = turns(("user", ASKED), ("assistant", SAID))
    messages = ROWS["messages"]["messages"]
    listed = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    columns = {"role": ["user", "assistant"], "content": [ASKED, SAID]}
    named = [{**m, "name": None, "tool_calls": None, "weight": 1} for m in messages]
    for held in (json.dumps(messages), listed, columns, named, [{"role": "Human", "content": ASKED}, messages[1]]):
        assert read({"messages": held}) == same
    assert read({"conversations": messages}) == same
    assert read({"prompt": messages[:1], "completion": messages[1:]}) == same
    assert read({"instruction": ASKED, "input": None, "output": SAID, "system": ""}) == same
    assert read({"query": ASKED, "response": SAID}) == same
    history = {"instruction": "c", "output": "d", "history": [["a", "b"]], "input": "", "system": "s"}
    assert read(history) == turns(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    nested = '{"role": "assistant", "content": [1]}'
    assert read({"question": nested, "answer": "[]"}) == turns(("user", nested), ("assistant", "[]"))
    assert read({"prompt": '[{"a": 1}]', "completion": "{}"}).parts == (Part('[{"a": 1}]'), Part("{}", True))


def test_columns_can_be_renamed_also_inside_others() -> None:
    row = {"mr": "a", "ref": {"first": "b"}, "target": "c"}
    assert read(row, None, {"mr": "source", "ref.first": "target"}).parts[2] == Part("b", True)
    pair = {"translation": {"en": "a", "de": "b"}}
    assert [
        part.text for part in read(pair, "pair", {"translation.de": "source", "translation.en": "target"}).parts
    ] == ["b", "\n", "a"]
    assert "no column 'mrs'" in complaint(row, None, {"mrs": "source"})
    assert "several are to be 'source'" in complaint(row, None, {"mr": "source", "target": "source"})
    assert "column 'target' is empty" in complaint(row, None, {"mr": "source", "ref.second": "target"})


def test_what_is_of_turns_is_refused_for_parts() -> None:
    with pytest.raises(AutopeftError, match="'score: assistant' is for turns"):
        read({"prompt": "a", "completion": "b"}, score="assistant")
    assert [part.scored for part in read({"prompt": "a", "completion": "b"}, score="all").parts] == [True, True]


def test_what_is_scored_can_be_chosen() -> None:
    row = {
        "messages": [
            {"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
        ]
    }

    def scored(**options: Any) -> list[bool]:
        return [turn.scored for turn in read(row, **options).turns]

    assert scored() == scored(score="assistant") == [False, True, False, True]
    assert scored(score="last") == [False, False, False, True]
    assert scored(score="all", system="s") == [True] * 5
    assert scored(system="s") == [False, False, True, False, True]
    row["messages"][1]["weight"] = 0
    assert scored() == [False, False, False, True]
    assert all(part.scored for part in read(ROWS["pair"], score="all").parts)
    assert read(ROWS["prompt_completion"], score="last") == read(ROWS["prompt_completion"])
    whole = tokens_of(read(row, score="all"), tiny_chat.tokenizer(), 10**6)
    assert whole.scored == [False] + [True] * (len(whole.ids) - 1)
    assert "'system' is for turns" in complaint(ROWS["pair"], system="s")


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["messages", "text"], ["several formats", "messages (messages)", "text (text)"]),
        (["instruction", "output", "text"], ["alpaca (instruction, output)", "text (text)", "'format'"]),
        (["text", "label"], ["text: text", "format: text"]),
        (["a", "b"], ["'a', 'b'", "no known format", "question_answer (question, answer)", "'text'"]),
        (["prompt", "chosen", "rejected"], ["'chosen'", "preference", "{chosen: completion}"]),
        (["prompt", "completion", "label"], ["preference", "format: prompt_completion"]),
        (["messages", "images"], ["'images'", "pictures"]),
    ],
)
def test_columns_that_are_of_no_one_format(names: list[str], parts: list[str]) -> None:
    with pytest.raises(AutopeftError) as caught:
        detect(names, None, None, "data.jsonl")
    message = str(caught.value)
    assert message.startswith("data.jsonl: ")
    assert [part for part in parts if part not in message] == []


def test_a_format_that_is_asked_for_takes_its_own_columns() -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "image": None, "text": "t"}
    assert read(row, "prompt_completion", {"chosen": "completion"}).parts[1] == Part("b", True)
    assert read(row, "text").parts == (Part("t", True),)
    assert "no column 'completion', as the format 'prompt_completion' has it" in complaint(row, "prompt_completion")


def messages(*items: Any) -> dict[str, Any]:
    return {"messages": list(items)}


USER, BOT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (messages(), ["'messages' holds no message"]),
        ({"messages": None}, ["column 'messages' is empty"]),
        ({"messages": "hello"}, ["holds no list but 'hello'"]),
        ({"messages": '[{"role": '}, ["broken JSON"]),
        ({"messages": True}, ["holds no list but True"]),
        (messages(USER), ["no turn of the assistant"]),
        (messages(USER, "b"), ["turn 2 is 'b'", "'role' and 'content'"]),
        (messages(USER, {"role": "assistant", "text": "b"}), ["turn 2 has no 'content'", "known: role, text"]),
        (messages(USER, {"role": "asistant", "content": "b"}), ["turn 2: 'role' is 'asistant'", "mean 'assistant'"]),
        (messages(USER, {"role": None, "content": "b"}), ["'role' is None", "known: assistant"]),
        (messages(USER, {"role": "assistant", "content": None}), ["turn 2: 'content' is empty"]),
        (messages(USER, {"role": "assistant", "content": True}), ["'content' holds no text but True"]),
        (messages(USER, {"role": "assistant", "content": 7}), ["'content' holds no text but 7"]),
        (messages({"role": "user", "content": [{"type": "image_url"}]}, BOT), ["turn 1", "of the type 'image_url'"]),
        (messages({"role": "user", "content": [{"type": "text", "text": None}]}, BOT), ["part 1 holds no text"]),
        (messages(USER, {"role": "tool", "content": "b"}), ["calls of tools cannot be trained"]),
        (messages(USER, {**BOT, "tool_calls": [{"id": 1}]}), ["'tool_calls'", "remove the row"]),
        (messages(USER, {**BOT, "reasoning_content": "hm"}), ["'reasoning_content'", "put it into 'content'"]),
        (messages(USER, {**BOT, "weight": "no"}), ["'weight' is 'no'", "0 or 1"]),
        ({**messages({"role": "system", "content": "x"}, BOT), "system": "y"}, ["a system turn, and another text"]),
        ({**messages(USER, BOT), "tools": '[{"name": "f"}]'}, ["column 'tools' is not empty"]),
        ({"conversations": [{"from": "human", "value": 3}]}, ["turn 1: 'value' holds no text but 3"]),
        ({"instruction": "a", "output": None}, ["column 'output' is empty"]),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, ["column 'history', item 1"]),
        ({"question": "a", "answer": 42}, ["column 'answer' holds no text but 42", "write a text"]),
        ({"prompt": "a", "completion": [BOT]}, ["a text and messages"]),
        ({"source": float("nan"), "target": "b"}, ["column 'source' holds no text but nan"]),
        ({"translation": {"en": "a"}}, ["no object of two languages", "translation.xx: source"]),
        ({"translation": {"en": "a", "de": None}}, ["column 'translation.de' is empty"]),
        ({"text": b"\xff\xfe"}, ["column 'text' holds no text"]),
    ],
)  # fmt: skip
def test_wrong_rows_are_named_with_field_and_remedy(row: dict[str, Any], parts: list[str]) -> None:
    message = complaint(row)
    assert message.startswith("f:3: ")
    assert [part for part in parts if part not in message] == []


def test_empty_tools_and_empty_texts_are_no_mistake() -> None:
    assert (
        read({**ROWS["messages"], "tools": None}) == read({**ROWS["messages"], "tools": []}) == read(ROWS["messages"])
    )
    empty = tokens_of(read({"question": "", "answer": ""}), tiny_chat.tokenizer(), 10**6)
    assert (
        tiny_chat.tokenizer().decode([i for i, flag in zip(empty.ids, empty.scored, strict=True) if flag])
        == "<|im_end|>"
    )
