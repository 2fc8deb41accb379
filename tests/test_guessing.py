"""Columns of no format: what is said of them, and that the advice is right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from autopeft.errors import AutopeftError
from autopeft.tasks import TaskData, task_from

CHAT = [{"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "Four."}]
#: Rows of a file, and the readout of what is advised.
MEANT: dict[str, tuple[dict[str, Any], str]] = {
    "labels": ({"Review": "fine {}", "Stars": "{}"}, "classification"),
    "values": ({"sentence": "fine {}", "score": "{}.5"}, "regression"),
    "pairs of texts": ({"premise": "a {}", "hypothesis": "b", "label": "{}"}, "classification"),
    "names with spaces": ({" Text": "a {}", "Class ": "{}"}, "classification"),
    "labels of words": ({"tokens": ["Ada", "writes"], "ner_tags": ["B-PER", "O"]}, "tokens"),
    "summaries": ({"document": "a long text {}", "summary": "short"}, "causal_lm"),
    "inputs and outputs": ({"input": "a {}", "output": "b"}, "causal_lm"),
    "conversations": ({"dialog": CHAT}, "causal_lm"),
    "preferences": ({"prompt": "a {}", "chosen": "b", "rejected": "c"}, "causal_lm"),
    "preferred conversations": ({"chosen": CHAT, "rejected": CHAT}, "causal_lm"),
    "good and bad answers": ({"prompt": "a {}", "completion": "b", "label": True}, "causal_lm"),
}
#: Rows of which nothing is learned, and what is said.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "triplets": ({"anchor": "a", "positive": "b", "negative": "c"}, "triplets"),
    "near pairs": ({"anchor": "a", "positive": "b"}, "near each other"),
    "spans": ({"context": "a", "question": "b", "answers": {"text": ["a"], "answer_start": [0]}}, "places in a text"),
    "choices": ({"question": "a", "choices": ["b", "c"], "answerKey": "b"}, "questions with choices"),
    "steps": ({"prompt": "a", "completions": ["b"], "labels": [True]}, "steps"),
}


def _load(folder: Path, row: dict[str, Any], **fields: Any) -> TaskData:
    lines = [json.dumps(row).replace("{}", str(i % 2)) for i in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    file = str(folder / "rows.jsonl")
    return task_from({"name": "files", "train": file, "test": file, **fields}).load()


@pytest.mark.parametrize("what", MEANT)
def test_following_what_is_advised_reads_the_rows(what: str, tmp_path: Path) -> None:
    row, readout = MEANT[what]
    with pytest.raises(AutopeftError, match=r"rows\.jsonl: ") as error:
        _load(tmp_path, row)
    said = str(error.value)
    if "did you mean" in said:
        advice = said.partition("did you mean ")[2].rpartition(" (")[0]
    else:
        advice = ", ".join(re.findall(r"columns: {[^}]*}|format: \w+", said))
    fields = yaml.safe_load("{" + advice + "}")
    assert _load(tmp_path, row, **fields).readout.name == readout


@pytest.mark.parametrize("what", REFUSED)
def test_rows_of_other_kinds_are_refused_by_name(what: str, tmp_path: Path) -> None:
    row, said = REFUSED[what]
    with pytest.raises(AutopeftError, match=f"{said}.*not trained on here.*list readouts.*list formats"):
        _load(tmp_path, row)


def test_a_named_readout_says_what_labelled_texts_are_for(tmp_path: Path) -> None:
    row = {"text": "a text {}", "label": "{}"}
    with pytest.raises(AutopeftError, match=r"to classify the texts write text: text .*multi_label"):
        _load(tmp_path, row)
    assert _load(tmp_path, row, readout="causal_lm").readout.name == "causal_lm"
    assert _load(tmp_path, row, readout="masked_lm").readout.name == "masked_lm"


def test_labelled_images_are_a_task_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match=r"task images \(image: image, label: label\)"):
        _load(tmp_path, {"image": "a.png", "label": "cat"})


@pytest.mark.parametrize(
    ("row", "fields", "said"),
    [
        ({"text": "a", "label": ["b", "c"]}, {"text": "text"}, "readout: multi_label.*readout: tokens"),
        ({"words": ["a", "b"], "label": "c"}, {"text": "words"}, "readout: tokens"),
        ({"text": "a", "label": "b"}, {"text": "text", "readout": "regression"}, "leave the readout out"),
        ({"text": "a", "label": {"b": 1}}, {"text": "text"}, "another column in 'label'"),
        (
            {"text": "a", "score": 1},
            {"text": "text"},
            "known: score, text; name another in 'label'",
        ),
        (
            {"text": "a", "b": 1, "c": 0},
            {"text": "text", "label": ["b", "c"]},
            "expected one column's name; .*multi_label",
        ),
    ],
)
def test_a_column_that_does_not_fit_says_which_readout_does(
    row: dict[str, Any], fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(AutopeftError, match=said):
        _load(tmp_path, row, **fields)


def test_a_class_a_row_may_be_values(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"text {i}", "label": i}) for i in range(30)))
    with pytest.raises(
        AutopeftError, match=r"1 row of label .* is too few .*30 labels in 30 rows: .*say readout: regression"
    ):
        task_from({"name": "files", "train": str(file), "test": str(file), "text": "text"}).load()
    task = {"name": "files", "train": str(file), "test": str(file), "text": "text", "readout": "regression"}
    assert task_from(task).load().readout.name == "regression"


def test_unknown_tasks_say_how_rows_of_ones_own_are_named() -> None:
    with pytest.raises(AutopeftError, match="unknown task 'sst2'; did you mean 'glue/sst2'"):
        task_from("sst2")
    with pytest.raises(AutopeftError, match=r"unknown task 'imdb'; .*\{name: files, train: FILE.*\{name: hub, path"):
        task_from("imdb")
    with pytest.raises(AutopeftError, match="task: train: missing; give a file of rows"):
        task_from({"name": "files"})
