"""What exports say of new texts, by the command and from Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from test_language_models import asked
from tiny_project import search
from tiny_task import save_language_model
from tiny_terminal import in_terminal
from transformers import AutoTokenizer
from typer.main import get_command
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.cli.predicting import run_predict
from autopeft.errors import AutopeftError
from autopeft.exporting.predicting import Predictor
from autopeft.formats import Conversation, Part, RowTokenizer, Turn, asking, asks_of, with_template
from autopeft.formats._pairs import pair_of
from autopeft.tasks._tables import csv_rows


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export of a classifier, the files that it was trained on gone but for the test rows."""
    folder = tmp_path_factory.mktemp("classifier")
    search(folder, folder / "run", {"trials": 3}).export(to=folder / "out")
    for name in ("train.jsonl", "validation.jsonl"):
        (folder / name).unlink()
    return folder


def predicted(*arguments: object, **options: Any) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["predict", *map(str, arguments)], **options)
    return found.exit_code, found.stdout


def test_labels_are_those_of_the_reported_accuracy(exported: Path) -> None:
    code, output = predicted(exported / "out", exported / "test.jsonl", "--json", "--batch", 7)
    assert code == 0, output
    found = [json.loads(line) for line in output.splitlines()]
    rows = [json.loads(line) for line in (exported / "test.jsonl").read_text().splitlines()]
    right = sum(one["label"] == row["label"] for one, row in zip(found, rows, strict=True))
    recorded = json.loads((exported / "out" / "hybrid.json").read_text())["metrics"]["test_accuracy"]
    assert right / len(rows) == pytest.approx(recorded)
    for one in found:
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert one["label"] == max(one["probabilities"], key=one["probabilities"].__getitem__)


def test_a_terminal_is_told_what_to_do_and_answered_line_by_line(exported: Path) -> None:
    texts = [json.loads(line)["text"] for line in (exported / "test.jsonl").read_text().splitlines()][:2]
    status, lines = in_terminal("predict", str(exported / "out"), typed="\n".join([*texts, "\x04"]))
    assert status == 0
    assert "a text a line, each is answered at once; Ctrl-D ends it" in lines
    answered = predicted(exported / "out", "-", input="\n".join(texts))[1].splitlines()
    assert [line for line in lines if line in answered] == answered


def test_verbs_say_what_takes_a_while_and_libraries_say_nothing(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever takes any time takes a while.
    monkeypatch.setattr("autopeft.watching.telling.SOON", 0.001)
    run, out, to = str(exported / "run"), str(exported / "out"), str(tmp_path / "again")
    for said, words in (
        ("measuring the export", ["evaluate", out]),
        ("loading the model", ["predict", out, str(exported / "test.jsonl")]),
        ("writing the export", ["export", run, "--to", to]),
        ("writing the report", ["report", run, "--to", str(tmp_path / "report.html")]),
        # Three candidates are too few.
        ("working out what the score depends on", ["explain", run]),
    ):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            found = CliRunner().invoke(app, words)
        assert said in found.stderr, (said, found.output)
        assert said not in found.stdout
        if "--json" in {option for p in get_command(app).commands[words[0]].params for option in p.opts}:  # type: ignore[attr-defined]
            assert said not in CliRunner().invoke(app, [*words, "--json"]).stderr
        theirs = [str(w.message) for w in warned if issubclass(w.category, (FutureWarning, DeprecationWarning))]
        assert not theirs, said


def test_lines_that_come_in_are_texts_and_batches_change_nothing(exported: Path, tmp_path: Path) -> None:
    texts = [json.loads(line)["text"] for line in (exported / "test.jsonl").read_text().splitlines()][:5]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    told = [
        predicted(exported / "out", "-", input="\n".join(texts)),
        predicted(exported / "out", tmp_path / "texts.txt"),
    ]
    assert told[0] == told[1]
    assert len(told[0][1].splitlines()) == 5
    predictor = Predictor(exported / "out")
    one, five = list(predictor(texts, batch=1)), list(predictor(texts))
    for a, b in zip(one, five, strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], rel=1e-4)


def test_a_line_in_is_a_line_out(exported: Path, tmp_path: Path) -> None:
    texts = [
        "",
        *(json.loads(line)["text"] for line in (exported / "test.jsonl").read_text().splitlines()[:3]),
        " ",
        "",
    ]
    texts.insert(2, "")
    expected = [found["label"] for found in Predictor(exported / "out")([text.strip() for text in texts])]
    blank = "\n".join(texts) + "\n"
    (tmp_path / "a.txt").write_text(blank)
    (tmp_path / "a.jsonl").write_text("".join((json.dumps({"text": t}) if t else "") + "\n" for t in texts))
    (tmp_path / "a.csv").write_text("id,text\n" + "".join((f"7,{t}" if t else "") + "\n" for t in texts))
    (tmp_path / "a.tsv").write_text("text\tid\n" + "".join((f"{t}\t7" if t else "") + "\n" for t in texts))
    found = {
        name: predicted(exported / "out", tmp_path / name, "--json") for name in ("a.txt", "a.jsonl", "a.csv", "a.tsv")
    }
    found["-"] = predicted(exported / "out", "-", "--json", "--batch", 2, input="\ufeff" + blank)
    for name, (code, output) in found.items():
        assert (code, [json.loads(line)["label"] for line in output.splitlines()]) == (0, expected), name
    # What training and `evaluate` read has no rows that are blank.
    assert len(list(csv_rows(tmp_path / "a.csv", ("text",), "id"))) == 4


@pytest.mark.parametrize(
    ("given", "said"), [(b"caf\xe9\n", "not UTF-8 text; save it as UTF-8"), (None, "is closed; give a file")]
)
def test_what_is_no_text_on_standard_input_is_one_line(given: bytes | None, said: str, exported: Path) -> None:
    command = [sys.executable, "-m", "autopeft", "predict", str(exported / "out")]
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    ended = subprocess.run(closed if given is None else command, input=given, capture_output=True, timeout=300)
    assert ended.returncode == 2
    assert said in ended.stderr.decode().splitlines()[-1]
    assert b"Traceback" not in ended.stderr


def test_what_cannot_be_read_is_said_in_a_line(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"other": "x"}\n')
    (tmp_path / "nine.txt").write_text("x\n")
    for arguments, words in (
        ((exported / "out", tmp_path / "none.txt"), r"no such file; did you mean 'nine\.txt'"),
        # Before the model is loaded.
        ((exported, tmp_path / "none.txt"), "no such file"),
        ((exported, tmp_path / "rows.yaml"), "no such file"),
        ((exported, exported / "out" / "README.md"), r"is of no known format; known: \.txt, \.jsonl"),
        ((exported / "out", tmp_path / "rows.jsonl"), "text"),
        ((exported, "-"), "hybrid"),
    ):
        with pytest.raises(AutopeftError, match=words) as caught:
            run_predict(arguments[0], str(arguments[1]), None, 32, False, False)
        assert "\n" not in str(caught.value)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(AutopeftError, match="holds no text"):
        run_predict(exported / "out", str(tmp_path / "empty.txt"), None, 32, False, False)


def test_a_language_model_writes_what_was_measured(tmp_path: Path) -> None:
    out = search(tmp_path, tmp_path / "run", asked(tmp_path)).export(to=tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row["prompt"], set()).add(row["completion"].strip())
    limit, prompts = asked(tmp_path)["generation"]["limit"], list(answers)
    chosen = [prompts[round(i * (len(prompts) - 1) / (limit - 1))] for i in range(limit)]
    shutil.rmtree(tmp_path / "run")
    texts = [found["text"] for found in Predictor(out)(chosen)]
    assert len(texts) == limit
    hits = sum(text in answers[prompt] for text, prompt in zip(texts, chosen, strict=True))
    recorded = json.loads((out / "hybrid.json").read_text())["metrics"]
    assert hits / limit == pytest.approx(recorded["test_exact_match"])
    # An empty text asks nothing, and those after it keep their places.
    assert [found["text"] for found in Predictor(out)(["", *chosen[:2], " "])] == ["", *texts[:2], ""]
    assert [found["text"] for found in Predictor(out)(["", ""])] == ["", ""]
    assert next(Predictor(out)(chosen[:1], max_new_tokens=1))["text"].count(" ") == 0


@pytest.mark.parametrize(
    "row",
    [
        pair_of("alpha beta", "gamma"),
        Conversation((), (Part("alpha beta"), Part("gamma", True))),
        Conversation((Turn("system", "delta"), Turn("user", "alpha beta"), Turn("assistant", "gamma", True))),
    ],
)
def test_texts_ask_as_the_rows_did(row: Conversation, tmp_path: Path) -> None:
    save_language_model(tmp_path)
    reader = RowTokenizer(with_template(AutoTokenizer.from_pretrained(tmp_path), None), 200)
    assert reader.question(asking("alpha beta", asks_of(row), "delta")) == reader.question(row)


def test_words_of_a_sentence_are_not_predicted(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported / "out", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "hybrid.json").read_text())
    record |= {"readout": {"name": "tokens", "labels": record["labels"]}, "scores": []}
    (tmp_path / "out" / "hybrid.json").write_text(json.dumps(record))
    with pytest.raises(AutopeftError, match="not made of"):
        Predictor(tmp_path / "out")
