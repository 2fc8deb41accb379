"""What language models write: prompts, packs, and how texts are compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF
from tiny_chat import CHATML, CLOSED, DEAF, ENDLESS, STRIPPED, THINKING
from tiny_chat import tokenizer as chat_tokenizer
from tiny_models import LAYERS, perturb
from tiny_packs import SETTINGS, Bench, language_bench
from tiny_task import completions, save_language_model, tokenizer
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig

from autopeft.candidate import Candidate, Job
from autopeft.doing import Stage, hear, let_go
from autopeft.engine.generated import Member, Writers
from autopeft.engine.pack import Pack
from autopeft.engine.worker import Worker, WorkerSpec, drain, writers_of
from autopeft.errors import AutopeftError
from autopeft.exporting._generating import write_tokenizer
from autopeft.formats import Conversation, Part, RowTokenizer, Turn
from autopeft.generating.asking import Asking
from autopeft.generating.settings import GenerationSettings, check_installed, check_writes
from autopeft.generating.writing import tokens_at_once
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.methods.prompt_tuning import PromptTuning
from autopeft.methods.sequential import Sequential
from autopeft.metrics import text_metric
from autopeft.models import find_model
from autopeft.readouts.causal_lm import CausalLM
from autopeft.readouts.classification import Classification
from autopeft.tasks import Split

#: Two sizes in a layer, methods that others lack, and the backbone alone.
MEMBERS = [
    Candidate(Hybrid.from_layers(LAYERS, {0: [LoRA(2, sites=("q", "v")), Prefix(2)], 2: [Sequential(3)]})),
    Candidate(Hybrid.from_layers(LAYERS, {0: [LoRA(5, sites=("v", "up")), Prefix(4)]})),
    Candidate(Hybrid.from_layers(LAYERS, {1: [Sequential(2)]}, [PromptTuning(3)])),
    Candidate(Hybrid.uniform(LAYERS)),
]
WAYS = [{}, {"beams": 3}, {"temperature": 1.5, "top_p": 0.9}]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return language_bench(tmp_path_factory.mktemp("model"), request.param, SETTINGS, (8, 8, 12))


@pytest.fixture(scope="module")
def members(bench: Bench) -> list[Member]:
    weights = []
    for i, candidate in enumerate(MEMBERS):
        with Pack(bench.backbone, [candidate], bench.settings) as pack:
            perturb(pack.attachment.banks, i + 1)
            weights.append(pack.weights(0))
    return [(candidate, lambda own=own: own) for candidate, own in zip(MEMBERS, weights, strict=True)]


def asking(limit: int = 200, **options: object) -> Asking:
    settings = GenerationSettings(max_new_tokens=6, limit=limit, **options)  # type: ignore[arg-type]
    return Asking.of(settings, completions((8, 8, 12)), tokenizer(), 40)


def writers(bench: Bench, own: Asking) -> Writers:
    return Writers(bench.backbone, replace(bench.data, asking=own), bench.settings, tokenizer)


@pytest.mark.parametrize("way", WAYS, ids=["greedy", "beams", "drawn"])
def test_each_writes_in_a_pack_what_it_writes_alone(
    bench: Bench, members: list[Member], way: Mapping[str, int]
) -> None:
    own = writers(bench, asking(**way))
    together = own.texts(members, "test")
    assert [own.texts([member], "test")[0] for member in members] == together
    assert len({tuple(texts) for texts in together}) == len(members)
    assert len(together[0]) == len(asking().prompts["test"])
    assert all(len(text.split()) <= 6 for texts in together for text in texts)


def test_a_pack_writes_what_generate_gives_without_padding(bench: Bench, members: list[Member]) -> None:
    own = asking(5)
    (texts,) = writers(bench, own).texts(members[:1], "test")
    with Pack(bench.backbone, [members[0][0]], bench.settings) as pack:
        pack.load(0, members[0][1]())
        for i, text in enumerate(texts):
            ids = torch.from_numpy(own.prompts["test"][i])[None]
            found = bench.backbone.model.generate(ids, max_new_tokens=6, do_sample=False)
            # The model's own end of texts is another token of this tokenizer.
            new = [int(i) for i in found[0, ids.shape[1] :]]
            assert tokenizer().decode(new[: (*new, 2).index(2)], skip_special_tokens=True).strip() == text
    assert any(texts)


def test_writing_says_how_far_it_is(bench: Bench, members: list[Member]) -> None:
    heard: list[Stage] = []

    class Ear:
        def did(self, stage: Stage) -> None:
            heard.append(stage)

    ear, own = Ear(), asking()
    hear(ear)
    try:
        writers(bench, own).texts(members, "test")
    finally:
        let_go(ear)
    total = len(members) * len(own.prompts["test"])
    assert [(stage.what, stage.done, stage.total) for stage in heard] == [("writing texts", total, total)]


def test_heads_that_share_keys_leave_room_for_more_texts() -> None:
    def room(heads: int) -> int:
        config = LlamaConfig(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=heads)
        return tokens_at_once(config, torch.device("cpu"))

    assert room(9) == 2**29 // (2 * 30 * 576 * 4)
    assert room(3) == 3 * room(9) + 1


def test_drawn_texts_depend_on_the_seed(bench: Bench, members: list[Member]) -> None:
    one, other = (writers(bench, asking(temperature=2.0, seed=seed)).texts(members[:1], "test") for seed in (0, 1))
    assert one != other


def test_who_cannot_write_spoils_nothing_for_others(bench: Bench, members: list[Member]) -> None:
    broken: Member = (members[1][0], dict)
    with pytest.warns(UserWarning, match=rf"candidate {broken[0].key} has written no texts .*weights do not fit"):
        found = writers(bench, asking()).metrics([members[0], broken], "test")
    assert [sorted(one) for one in found] == [["exact_match", "rouge_l"], []]


def test_each_candidate_writes_after_its_last_epoch_where_that_is_asked(bench: Bench, tmp_path: Path) -> None:
    settings = GenerationSettings(metrics=("exact_match", "chrf"), max_new_tokens=4, limit=3, when="last_epoch")
    own = Asking.of(settings, completions((8, 8, 12)), tokenizer(), 40, splits=("validation", "test"))
    spec = WorkerSpec(bench.source, bench.settings.model_copy(update={"epochs": 1, "checkpoint": True}), tmp_path)
    worker = Worker(spec, replace(bench.data, asking=own))
    found, own_writers = drain(worker.run(MEMBERS)), writers_of(worker)
    (alone,) = own_writers.metrics([own_writers.kept(tmp_path, Job(MEMBERS[1], 1, 1))], "validation")
    assert [e.status for e in found] == ["done"] * len(MEMBERS)
    assert {name: found[1].metrics[name] for name in alone} == alone
    assert sorted(alone) == ["chrf", "exact_match"]
    assert not alone.keys() & found[1].curve[-1].keys()


# --- prompts

CHAT = Conversation((
    Turn("user", "What is it?"), Turn("assistant", "yes", True), Turn("user", "And no?"), Turn("assistant", "no", True),
))  # fmt: skip


@pytest.mark.parametrize(
    ("template", "stop"), [(CHATML, "<|im_end|>"), (STRIPPED, "<|end|>"), (THINKING, "<|im_end|>"), (ENDLESS, "</s>")]
)
def test_the_last_turn_of_the_assistant_is_asked_for(template: str, stop: str) -> None:
    own = chat_tokenizer(template)
    asked = CHAT.asked
    assert asked is not None
    question = RowTokenizer(own, 1000).question(asked)
    assert question is not None
    messages = [{"role": t.role, "content": t.content} for t in CHAT.turns[:3]]
    assert question.ids == own.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert question.stop == own.convert_tokens_to_ids(stop)
    assert asked.answer == "no"


@pytest.mark.parametrize("template", [DEAF, CLOSED])
def test_a_prompt_is_what_the_scored_part_was_learned_after(template: str) -> None:
    own = chat_tokenizer(template)
    asked = CHAT.asked
    assert asked is not None
    reader = RowTokenizer(own, 1000)
    row, question = reader.of(asked), reader.question(asked)
    assert question is not None
    assert question.ids == row.ids[: row.scored.index(True)]
    assert question.stop == [i for i, scored in zip(row.ids, row.scored, strict=True) if scored][-1]


def test_what_nothing_stands_before_is_not_asked_for() -> None:
    parts = Conversation((), (Part("one ", True), Part("two", True), Part(" three", False)))
    assert parts.asked == Conversation((), (Part("one ", False), Part("two", True)))
    assert Conversation((), (Part("one", True),)).asked is None
    assert Conversation((Turn("assistant", "yes", True),)).asked is None
    assert Conversation((Turn("user", "yes", True),)).asked is None


def rows(*pairs: tuple[str, str]) -> Split:
    texts = (json.dumps({"parts": [{"text": a, "scored": False}, {"text": b, "scored": True}]}) for a, b in pairs)
    return Split(tuple(texts), None, (0,) * len(pairs))


def test_equal_prompts_are_asked_once_and_have_all_their_answers() -> None:
    data = replace(completions((8, 8, 8)), test=rows(("w1 w2", "w3"), ("w4", " w5"), ("w1 w2", "w6"), ("w7 w8", "w9")))
    found = Asking.of(GenerationSettings(limit=2), data, tokenizer(), 2)
    prompts = found.prompts["test"]
    assert prompts.answers == (("w3", "w6"), ("w9",))
    # What the tokenizer puts first is lost with the beginning.
    assert [prompts[i].tolist() for i in range(2)] == [[5, 6], [11, 12]]
    assert found.stops == ()
    assert found.remarks == ("2 of 2 prompts of test are too long for the model, and lose their beginning",)
    assert found.described() == "2 of 3 prompts of test, greedy, at most 64 new tokens"


def test_a_split_without_prompts_is_refused() -> None:
    data = replace(completions((8, 8, 8)), test=rows(("", "w3")))
    with pytest.raises(AutopeftError, match=r"generation: test: no row has a prompt before what is scored"):
        Asking.of(GenerationSettings(), data, tokenizer(), 40)
    with pytest.raises(AutopeftError, match=r"64 tokens .max_new_tokens. leave no position of the model"):
        Asking.of(GenerationSettings(), completions((8, 8, 8)), tokenizer(), 0)
    data = replace(data, test=rows(("one", "two"), ("two", "three")))
    with pytest.raises(AutopeftError, match="no answer has a number in it, so metric 'number_match' says nothing"):
        Asking.of(GenerationSettings(metrics=("number_match",)), data, tokenizer(), 40)


@pytest.mark.parametrize(("chat", "ends"), [(CHATML, [2, "<|im_end|>"]), (None, [2, "</s>"])])
def test_exports_say_where_a_text_ends(chat: str | None, ends: list[int | str], tmp_path: Path) -> None:
    """The model ends at another token than the rows that it was trained on."""
    own = chat_tokenizer(CHATML)
    save_language_model(tmp_path / "model", vocab_size=300)
    own.save_pretrained(tmp_path / "model")
    source = replace(find_model(str(tmp_path / "model")), chat=chat)
    write_tokenizer(source, source.model(CausalLM(), torch.float32), tmp_path / "out", None)
    found = GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
    assert found == [own.convert_tokens_to_ids(end) if isinstance(end, str) else end for end in ends]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == CHATML


# --- metrics


def test_bleu_and_chrf_are_sacrebleus_with_as_many_references_as_a_row_has() -> None:
    texts = ["the cat sat on the mat", "it rains .", "no"]
    references = [["the cat sat on a mat", "a cat sat on the mat"], ["it is raining ."], ["yes"]]
    streams = [["the cat sat on a mat", "it is raining .", "yes"], ["a cat sat on the mat", None, None]]
    for name, own in (("bleu", BLEU()), ("chrf", CHRF())):
        metric = text_metric(name)()
        assert metric.compare(texts, references) == pytest.approx(own.corpus_score(texts, streams).score)
        assert metric.signature(references) == f"{name.upper() if name == 'bleu' else 'CHRF'}|{own.get_signature()}"
        assert "nrefs:var" in metric.signature(references)
        assert metric.compare(["", "", ""], references) == 0


def test_rouge_l() -> None:
    metric = text_metric("rouge_l")()
    # "the cat mat" of 4 and 6 words: 2 * 3 / 10.
    assert metric.compare(["The cat, mat, dog!"], [["the cat sat on the mat"]]) == pytest.approx(0.6)
    assert metric.compare(["b", "Grüße"], [["a", "b"], ["grüße"]]) == 1
    assert metric.compare(["", "猫 犬"], [["a"], ["犬"]]) == pytest.approx(1 / 3)
    assert "stem:no" in metric.signature([["a"]])


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [("Paris.", "paris", True), ("(The  end)", "the end", True), ("a-b", "ab", False), ("+", "-", False),
     ("ﬁne", "fine", True), ("", "x", False)],
)  # fmt: skip
def test_exact_match(text: str, reference: str, right: bool) -> None:
    assert text_metric("exact_match")().compare([text], [["other", reference]]) == right


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [("So 3 + 4 = 7.", "7", True), ("1,234.50 dollars", "#### 1234.5", True), ("#### -5", "\u22125", True),
     ("no number", "7", False), ("it is 7, not 8", "7", False), ("1,2,3", "3", True), ("10-3", "3", True),
     ("x7", "7", False)],
)  # fmt: skip
def test_number_match(text: str, reference: str, right: bool) -> None:
    assert text_metric("number_match")().compare([text], [[reference]]) == right


# --- settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"metrics": ["blue"]}, "unknown metric 'blue'; did you mean 'bleu'"),
        ({"metrics": ["accuracy"]}, "metric 'accuracy' is of labels, and not of texts that a model writes; choose of"),
        ({"metrics": ["bleu", "bleu"]}, "the same one twice"),
        ({"beams": 2, "temperature": 1.0}, "leave one of them out"),
        ({"top_p": 0.5}, "set a temperature"),
    ],
)
def test_settings_that_are_wrong(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GenerationSettings.model_validate(given)
    assert GenerationSettings.model_validate("chrf").metrics == ("chrf",)


def test_what_cannot_be_measured_is_said_before_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AutopeftError, match="generation: measures texts that a language model writes, and the task"):
        check_writes(GenerationSettings(), Classification(("a", "b")), "generation")
    monkeypatch.setattr("autopeft.generating.settings.find_spec", lambda name: None)
    with pytest.raises(
        AutopeftError, match=r"'bleu' needs the package sacrebleu; pip install 'autopeft\[generation\]'"
    ):
        check_installed(["exact_match", "bleu"], "generation")
