"""Tasks `files` and `hub` on rows that a language model learns from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
from test_formats import ASKED, ROWS, SAID, read

from autopeft import plugins
from autopeft.cli.written import facts_of, lines_of
from autopeft.engine.data import TokenizedTask
from autopeft.errors import AutopeftError
from autopeft.formats import Conversation, RowTokenizer, example_of
from autopeft.tasks import TaskData, task_from
from autopeft.tasks._other_file import data_of_file
from autopeft.tasks._rows import Raw

#: A kind of labels for such rows that has no model: tasks are loaded, not trained.
KIND = '''
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from autopeft.readouts import Measure, Readout

@dataclass(frozen=True)
class Spoken(Readout):
    """Texts to write."""
    name: ClassVar[str] = "spoken"
    description: ClassVar[str] = "texts to write"
    called: ClassVar[str] = "texts"
    tokenises: ClassVar[bool] = True
    own_metrics = {"nats": Measure(lambda one, other: 0.0, "min")}

    @classmethod
    def of(cls, train, names=None):
        return cls()

    def encode(self, rows, known, known_in):
        return (0,) * len(rows.labels)

    def array(self, labels):
        return np.zeros(len(labels), dtype=np.int64)

    def loss(self, outputs, labels):
        return outputs.mean((1, 2))

    def predict(self, outputs):
        return outputs
'''


@pytest.fixture(autouse=True)
def _spoken(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The kind is there in one test."""
    monkeypatch.setattr(plugins, "_folders", {})
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "spoken.py").write_text(KIND)
    plugins.use_plugins(folder)


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(path)


def raw(**fields: Any) -> Raw:
    found: Raw = task_from({"name": "files", **fields})._read()
    return found


def load(path: Path, records: list[dict[str, Any]], **fields: Any) -> TaskData:
    return task_from({"name": "files", "train": write(path, records), "readout": "spoken", **fields}).load()


def complaint(**fields: Any) -> str:
    with pytest.raises(AutopeftError) as caught:
        raw(**fields)
    message = str(caught.value)
    assert "\n" not in message
    return message


def numbered(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"row {i}", "completion": "yes", **more} for i in range(count)]


def test_rows_of_each_format_come_as_conversations(tmp_path: Path) -> None:
    for name, row in ROWS.items():
        found = raw(train=write(tmp_path / f"{name}.jsonl", [row, row]))
        assert (found.readout, list(found.train.first)) == ("causal_lm", [read(row).to_json()] * 2)
        assert found.train.at(1) == f"{tmp_path / name}.jsonl:2"


def test_the_same_rows_in_any_file(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [ROWS["messages"], {"messages": [*ROWS["messages"]["messages"], {"role": "user", "content": "And?"}]}]
    expected = [read(row).to_json() for row in rows]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    parquet.write_table(
        pyarrow.Table.from_pylist([{**row, "system": None, "n": 1} for row in rows]), tmp_path / "a.parquet"
    )
    quoted = ('"' + json.dumps(row["messages"]).replace('"', '""') + '"' for row in rows)
    (tmp_path / "a.csv").write_text("n, messages\n" + "".join(f"1, {cell}\n" for cell in quoted))
    for name in ("a.json", "a.parquet", "a.csv"):
        assert list(raw(train=str(tmp_path / name)).train.first) == expected
    (tmp_path / "b.tsv").write_text(f"source\ttarget\n{ASKED}\t{SAID}\n")
    assert list(raw(train=str(tmp_path / "b.tsv")).train.first) == [read(ROWS["pair"]).to_json()]


def test_a_column_that_later_rows_have_is_read(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "input": "c", "system": "s"}]
    texts = [Conversation.from_json(text) for text in raw(train=write(tmp_path / "a.jsonl", rows)).train.first]
    assert [[turn.content for turn in one.turns] for one in texts] == [["a", "b"], ["s", "a\nc", "b"]]


def test_wrong_rows_are_named_with_file_and_line(tmp_path: Path) -> None:
    ok = ROWS["messages"]
    bad = write(tmp_path / "a.jsonl", [ok, {"messages": [{"role": "user", "content": None}]}])
    assert complaint(train=bad) == f"{bad}:2: column 'messages', turn 1: 'content' is empty; write a text"
    mixed = write(tmp_path / "b.jsonl", [ok, ROWS["pair"]])
    assert "several formats" in complaint(train=mixed)
    assert f"{mixed}:2: no column 'messages'" in complaint(train=mixed, format="messages")
    assert "no rows" in complaint(train=write(tmp_path / "c.jsonl", []))
    (tmp_path / "d.csv").write_text("prompt;completion\na;b\n")
    assert "'prompt;completion'" in complaint(train=str(tmp_path / "d.csv"))
    twice = tmp_path / "e.jsonl"
    twice.write_text('{"text": "a", "text": "b"}\n')
    assert f"{twice}:1: key 'text' stands twice" in complaint(train=str(twice))
    good, labelled = write(tmp_path / "h.jsonl", [ok]), write(tmp_path / "f.conll", [])
    assert f"{labelled}: files of this kind hold labels" in complaint(train=good, validation=labelled)
    assert "write text: text" in complaint(train=write(tmp_path / "g.jsonl", [{"text": "a", "label": 1}]))


def test_splits_are_cut_at_random_by_the_seed(tmp_path: Path) -> None:
    one, same, other = (load(tmp_path / "a.jsonl", numbered(50), seed=seed) for seed in (0, 0, 1))
    assert (len(one.train), len(one.validation), len(one.test)) == (40, 5, 5)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert set(one.train.first) | set(one.validation.first) | set(one.test.first) == set(other.train.first) | set(
        other.validation.first
    ) | set(other.test.first)
    assert "at random" in one.note
    assert one.metrics == ("nats",)


def test_rows_of_a_group_stay_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "completion": "y", "of": i // 3} for i in range(60)]
    data = load(tmp_path / "a.jsonl", rows, group="of")
    groups = [
        {int(Conversation.from_json(text).parts[0].text) // 3 for text in split.first}
        for split in (data.train, data.validation, data.test)
    ]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 20
    assert [len(split) for split in (data.train, data.validation, data.test)] == [48, 6, 6]
    assert "by group" in data.note
    with pytest.raises(AutopeftError, match="2 groups are too few"):
        load(tmp_path / "b.jsonl", rows[:6], group="of")
    assert "group: no column 'off'" in complaint(train=write(tmp_path / "c.jsonl", rows), group="off")
    missing = [*rows, {"prompt": "a", "completion": "b"}]
    assert ":61: group column 'of'" in complaint(train=write(tmp_path / "d.jsonl", missing), group="of")


def test_a_template_is_a_part_of_the_data(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{{ messages[0].content }}")
    found = [load(tmp_path / "a.jsonl", numbered(9), template=t) for t in (None, "auto", "none", "plain", str(file))]
    assert [data.template for data in found] == [None, None, "none", "plain", "{{ messages[0].content }}"]
    assert len({data.fingerprint for data in found}) == 4
    message = complaint(train=write(tmp_path / "b.jsonl", numbered(3)), template="no/such.jinja")
    assert message.startswith("task files: template: no/such.jinja")
    assert "auto, plain, none" in message


def test_a_plan_shows_an_example_with_its_scored_part_and_how_much_is_cut(tmp_path: Path) -> None:
    rows = [{"question": "Why?", "answer": "x" * (10 * i)} for i in range(12)]
    data = load(tmp_path / "a.jsonl", rows)
    tokenizer = tiny_chat.tokenizer(None)
    task = TokenizedTask.of(data, tokenizer, 100)
    facts = facts_of(task, example_of(data.train.first, RowTokenizer(tokenizer, 100)))
    said = dict(lines_of(json.loads(json.dumps(facts))))
    assert "### Instruction:\nWhy?\n\n### Response:\n[[" in said["an example"]
    assert list(said) == ["tokens of train", "tokens of validation", "tokens of test", "an example"]
    one = facts["tokens"]["train"]
    assert (one["rows"], one["tokens"] + one["cut"] > 100, one["rows_cut"] > 0) == (10, True, True)
    assert f"{one['share_cut']:.1%} cut, in {one['rows_cut']} rows" in said["tokens of train"]
    assert "no chat template" in " ".join(task.remarks)
    whole = facts_of(
        TokenizedTask.of(data, tiny_chat.tokenizer(), 1000), example_of(data.train.first, RowTokenizer(tokenizer, 9))
    )
    assert "none cut" in dict(lines_of(whole))["tokens of train"]


def test_another_file_is_read_in_the_same_way(tmp_path: Path) -> None:
    rows = [{"q": f"{i}?", "a": "yes"} for i in range(9)]
    fields = {"columns": {"q": "question", "a": "answer"}, "score": "all", "system": "s", "readout": "spoken"}
    task = task_from({"name": "files", "train": write(tmp_path / "a.jsonl", rows), **fields, "template": "none"})
    data = task.load()
    other = data_of_file(task, Path(write(tmp_path / "b.jsonl", rows[:2])), data.readout, data.metrics)
    assert set(other.test.first) <= set(data.train.first + data.validation.first + data.test.first)
    assert (len(other.test), other.template) == (2, "none")


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{**ROWS["messages"], "id": i, "tools": None} for i in range(3)]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "set"))
    task = task_from({"name": "hub", "path": str(tmp_path / "set"), "group": "id"})
    found: Raw = task._read()
    assert list(found.train.first) == [read(ROWS["messages"]).to_json()] * 3
    assert (found.train.groups, found.validation, found.readout) == (["0", "1", "2"], None, "causal_lm")
    with pytest.raises(AutopeftError, match=f"{tmp_path / 'set'}, split train: the columns .* fit several formats"):
        task_from({"name": "hub", "path": str(tmp_path / "set"), "columns": {"id": "text"}})._read()


REAL = Path(__file__).parents[2] / "shared/data"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize("name", ["instruct", "instruct_alpaca", "e2e"])
def test_real_data_sets_just_work(name: str) -> None:
    fields = {
        part: str(REAL / f"{name}/{file}.jsonl")
        for part, file in (("train", "train"), ("validation", "dev"), ("test", "test"))
    }
    data = task_from({"name": "files", **fields, "readout": "spoken"}).load()
    assert len(data.train) == sum(1 for _ in (REAL / f"{name}/train.jsonl").open())
    same = task_from({"name": "files", "train": str(REAL / "instruct/train.jsonl")})._read()
    if name == "instruct_alpaca":
        assert list(data.train.first) == list(same.train.first)
