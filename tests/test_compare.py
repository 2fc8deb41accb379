"""Methods side by side: tuned alike on validation, reported on test, and gone on with after a kill."""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from test_cli import autopeft
from tiny_project import experiment, not_measured, write_experiment
from tiny_task import WORDS, tags, task, tokenizer

from autopeft.baselines import BASELINES
from autopeft.comparing import arms, measuring
from autopeft.comparing.choosing import choose, grid
from autopeft.comparing.contenders import contenders, presets
from autopeft.comparing.launching import compare
from autopeft.comparing.memory import Peak
from autopeft.comparing.result import Comparison
from autopeft.comparing.state import Entry, Training
from autopeft.engine.data import TokenizedTask, collate
from autopeft.engine.settings import EARLIER
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS
from autopeft.models import find_model
from autopeft.tasks import TaskData

TWO: dict[str, Any] = {"methods": "lora,full_fine_tuning", "seeds": 2, "rates": 2, "quiet": True}
#: Of a row, what a clock tells.
_TIMES = ("seconds_per_epoch", "latency_ms", "merged_latency_ms", "bare_latency_ms")


class Killed(BaseException):
    """Nothing catches it."""


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return experiment(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def compared(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A comparison that nobody disturbed; tests copy its folder."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "theirs.safetensors").touch()
    return run(folder, fields)


def run(out: Path, fields: dict[str, Any], **changes: Any) -> Comparison:
    with not_measured(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(measuring, "_ROUNDS", 3)
        return compare(out=out, **{**TWO, **fields, **changes})


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in _TIMES} for row in rows]


def test_rows_say_what_was_trained_and_measured(compared: Comparison, fields: dict[str, Any]) -> None:
    lora, full = compared.rows
    shape = find_model(fields["model"]).shape()
    assert [row["method"] for row in compared.rows] == ["lora", "full_fine_tuning"]
    assert [row["status"] for row in compared.rows] == ["done", "done"]
    assert full["trainable_params"] == full["kept_params"] == shape.backbone_params
    assert lora["trainable_params"] == shape.layers * 8 * 2 * sum(shape.sites["q"])
    assert lora["stored_bytes"] == 4 * lora["kept_params"]
    assert full["share_of_backbone"] == 1.0
    # Weights, gradients and two moments of all that is trained, and the frozen weights of LoRA's backbone.
    assert full["peak_memory_bytes"] > 16 * shape.backbone_params
    assert lora["peak_memory_bytes"] > 4 * shape.backbone_params + 16 * lora["trainable_params"]
    for row in compared.rows:
        assert row["seeds"] == 2
        assert row["learning_rate"] in row["learning_rates_tried"]
        assert len(row["learning_rates_tried"]) == 2
        assert row["seconds_per_epoch"] > 0
        assert row["latency_ms"] > 0
    assert full["merged_latency_ms"] == full["latency_ms"]


def test_scores_are_those_of_the_trainings_at_the_chosen_rate(compared: Comparison) -> None:
    state = json.loads((compared.folder / "comparison.json").read_text())
    for row in compared.rows:
        entry = state["entries"][row["method"]]
        best = max(entry["tuning"], key=lambda t: (t["validation"]["accuracy"], -t["validation"]["loss"]))
        assert row["learning_rate"] == best["learning_rate"]
        assert not any(t["test"] for t in entry["tuning"])
        scores = [t["test"]["test_accuracy"] for t in entry["trainings"]]
        assert [t["seed"] for t in entry["trainings"]] == [0, 1]
        assert row["test_accuracy"] == fmean(scores)
        assert row["test_accuracy_sd"] == stdev(scores)


def test_views_hold_the_rows(compared: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    table, text, data, plot = compared.files
    assert json.loads(data.read_text()) == {"rows": compared.rows} == compared.to_json()
    with table.open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["lora", "full_fine_tuning"]
    assert "| full_fine_tuning |" in text.read_text()
    assert "its usual rate times 0.56, 1.8" in text.read_text()
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (compared.folder / "weights").iterdir()] == ["theirs.safetensors"]
    assert list(compared.to_frame()["method"]) == ["lora", "full_fine_tuning"]


def test_the_command_prints_json(
    compared: Comparison, fields: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Finished already: rows are shown again, and nothing is trained.
    shutil.copytree(compared.folder, tmp_path / "out")
    project = write_experiment(Path(fields["model"]).parent)
    arguments = ["--methods", "lora,full_fine_tuning", "--seeds", "2", "--rates", "2", "--out", str(tmp_path / "out")]
    status, out, _ = autopeft(capsys, "compare", str(project), *arguments, "--json")
    assert (status, json.loads(out)) == (0, {"rows": compared.rows})
    status, out, err = autopeft(capsys, "compare", str(project), *arguments)
    assert status == 0
    assert "Methods on tiny" in out
    assert "2 of 2 are finished" in err


def test_killed_it_goes_on_where_it_was(
    compared: Comparison, fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_and_gone_on_with(compared, fields, tmp_path, "test", 4, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("owner", ["tune", "test", "costs"])
def test_killed_at_another_moment_too(
    compared: Comparison, fields: dict[str, Any], tmp_path: Path, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_and_gone_on_with(compared, fields, tmp_path, owner, 2, monkeypatch)


def killed_and_gone_on_with(
    compared: Comparison, fields: dict[str, Any], tmp_path: Path, owner: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At that call of an arm."""
    calls = [0]
    for arm in (arms.HybridArm, arms.BaselineArm):
        original = getattr(arm, owner)

        def counted(*args: Any, original: Any = original) -> Any:
            calls[0] += 1
            if calls[0] == call:
                raise Killed
            return original(*args)

        monkeypatch.setattr(arm, owner, counted)
    with pytest.raises(Killed):
        run(tmp_path / "out", fields)
    before = json.loads((tmp_path / "out" / "comparison.json").read_text())
    again = run(tmp_path / "out", fields)
    assert timeless(again.rows) == timeless(compared.rows)
    after = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for name, entry in before["entries"].items():
        for kind in ("tuning", "trainings"):
            # What was finished stands, to the bit, and is not done twice.
            assert after["entries"][name][kind][: len(entry[kind])] == entry[kind]
        assert not entry["costs"] or after["entries"][name]["costs"] == entry["costs"]


def test_more_seeds_and_methods_are_added(compared: Comparison, fields: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(compared.folder, tmp_path / "out")
    more = run(tmp_path / "out", fields, methods="lora,head_only", seeds=3)
    assert [(row["method"], row["seeds"]) for row in more.rows] == [("lora", 3), ("head_only", 3)]
    assert len(json.loads((tmp_path / "out" / "comparison.json").read_text())["entries"]) == 3
    assert more.rows[0]["learning_rate"] == compared.rows[0]["learning_rate"]
    assert more.rows[0]["seconds_per_epoch"] == compared.rows[0]["seconds_per_epoch"]
    assert more.rows[1]["trainable_params"] == 0


def test_a_method_that_fails_is_a_row_and_is_tried_again(fields: dict[str, Any], tmp_path: Path) -> None:
    def fit(*args: Any) -> Any:
        raise RuntimeError("no\nway")

    few = {"methods": "full_fine_tuning,head_only", "seeds": 1, "rates": 1}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BASELINES.get("full_fine_tuning"), "fit", fit)
        bad, good = run(tmp_path / "out", fields, **few).rows
    assert (bad["status"], bad["test_accuracy"], bad["learning_rate"]) == ("failed", None, None)
    assert bad["reason"] == "no rate of its grid trains: RuntimeError: no way"
    assert (good["status"], good["reason"], good["test_accuracy_sd"]) == ("done", None, None)
    assert "failed: no rate of its grid trains" in (tmp_path / "out" / "compare.md").read_text()
    mended, same = run(tmp_path / "out", fields, **few).rows
    assert (mended["status"], mended["reason"]) == ("done", None)
    assert same == good


def test_trainings_of_a_rate_that_is_chosen_no_more_are_forgotten() -> None:
    entry = Entry(learning_rate=1e-3, trainings=[Training(learning_rate=1e-3, seed=0)], costs={"latency_ms": 1.0})
    entry.choose(1e-3)
    assert (entry.missing([0, 1]), entry.costs) == ([1], {"latency_ms": 1.0})
    entry.choose(3e-3)
    assert (entry.learning_rate, entry.missing([0, 1]), entry.costs) == (3e-3, [0, 1], {})


def test_a_seed_that_failed_is_tried_again(fields: dict[str, Any], tmp_path: Path) -> None:
    fit, few = BASELINES.get("full_fine_tuning").fit, {"methods": "full_fine_tuning", "seeds": 3, "rates": 1}

    def fails(self: Any, source: Any, tokens: Any, settings: Any) -> Any:
        if settings.seed % 2:
            raise RuntimeError("full disk")
        return fit(self, source, tokens, settings)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BASELINES.get("full_fine_tuning"), "fit", fails)
        bad = run(tmp_path / "out", fields, **few).rows[0]
    assert (bad["status"], bad["reason"], bad["seeds"]) == ("done", "seed 1: RuntimeError: full disk", 2)
    whole = run(tmp_path / "out", fields, **few).rows[0]
    assert (whole["status"], whole["reason"], whole["seeds"]) == ("done", None, 3)
    # Asked for fewer, it speaks of these alone.
    entry = json.loads((tmp_path / "out" / "comparison.json").read_text())["entries"]["full_fine_tuning"]
    tests = {t["seed"]: t["test"]["test_accuracy"] for t in entry["trainings"]}
    two = run(tmp_path / "out", fields, **few | {"seeds": 2}).rows[0]
    assert (two["seeds"], two["test_accuracy"]) == (2, fmean([tests[0], tests[1]]))


def test_labels_of_words_are_compared(fields: dict[str, Any], tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "validation", "test")):
        words = random.Random(seed).choices(WORDS[:9], k=90)
        rows = [f"{word}\t{'B-PER' if word == 'w0' else 'O'}\n" + "\n" * (i % 5 > 3) for i, word in enumerate(words)]
        (tmp_path / f"{split}.conll").write_text("".join(rows))
    files = {split: str(tmp_path / f"{split}.conll") for split in ("train", "validation", "test")}
    few = {"methods": "lora,full_fine_tuning,attention_fusion", "seeds": 1, "rates": 1}
    changes = {"task": {"name": "files", "metric": "accuracy", **files}, "budget": {}, **few}
    lora, full, fusion = run(tmp_path / "out", fields, **changes).rows
    assert (lora["status"], full["status"], fusion["status"]) == ("done", "done", "failed")
    assert min(lora["peak_memory_bytes"], lora["seconds_per_epoch"], lora["latency_ms"]) > 0
    # A model for tokens has no pooler.
    shape = find_model(fields["model"]).shape()
    assert full["trainable_params"] == shape.backbone_params - shape.hidden * (shape.hidden + 1)
    assert fusion["reason"].endswith("labels of words need one a token; take lst")


@pytest.mark.parametrize("data", [task(pairs=True), tags()], ids=["classes", "words"])
def test_a_few_examples_are_what_they_were_among_all(data: TaskData) -> None:
    tokens, index = TokenizedTask.of(data, tokenizer(), 32).train, np.array([7, 2, 50])
    few, among = collate(tokens.take(index), np.arange(3), 0), collate(tokens, index, 0)
    assert torch.equal(few.labels, among.labels)
    assert few.inputs.keys() == among.inputs.keys()
    assert all(torch.equal(x, among.inputs[name]) for name, x in few.inputs.items())


def test_nothing_is_chosen_on_test(compared: Comparison, fields: dict[str, Any], tmp_path: Path) -> None:
    lines = [json.loads(line) for line in Path(fields["task"]["test"]).read_text().splitlines()]
    labels = [line["label"] for line in lines]
    random.Random(1).shuffle(labels)
    test = tmp_path / "test.jsonl"
    permuted = [json.dumps({**line, "label": label}) for line, label in zip(lines, labels, strict=True)]
    test.write_text("\n".join(permuted))
    task = {**fields["task"], "test": str(test)}
    run(tmp_path / "out", {**fields, "task": task}, methods="lora", seeds=1)
    mine, theirs = (
        json.loads((folder / "comparison.json").read_text())["entries"]["lora"]
        for folder in (tmp_path / "out", compared.folder)
    )
    assert mine["tuning"] == theirs["tuning"]
    assert mine["learning_rate"] == theirs["learning_rate"]
    assert mine["trainings"][0]["validation"] == theirs["trainings"][0]["validation"]
    assert mine["trainings"][0]["test"] != theirs["trainings"][0]["test"]


def test_an_older_comparison_goes_on_with_its_defaults(
    compared: Comparison, fields: dict[str, Any], tmp_path: Path
) -> None:
    """Its file does not say where heads begin and at what methods learn, and neither does its user."""
    shutil.copytree(compared.folder, tmp_path / "out")
    training = {name: value for name, value in fields["training"].items() if name not in EARLIER}
    known = json.loads((tmp_path / "out" / "comparison.json").read_text())["terms"]["training"]
    assert not EARLIER.keys() & known.keys()
    run(tmp_path / "out", {**fields, "training": training})


def test_a_folder_of_something_else_is_refused(compared: Comparison, fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match=r"holds another comparison: training\.epochs \(there: \d, now: 2\)"):
        run(compared.folder, {**fields, "training": {**fields["training"], "epochs": 2}})
    with pytest.raises(AutopeftError, match="holds another comparison: backbone"):
        run(compared.folder, {**fields, "backbone": {"quantise": "int4"}})
    with pytest.raises(AutopeftError, match="holds another comparison: rates"):
        run(compared.folder, fields, rates=3)
    (tmp_path / "study.db").touch()
    with pytest.raises(AutopeftError, match="is the folder of a search"):
        run(tmp_path, fields)


def test_mistakes_are_one_line(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match="unknown method 'lorra'; did you mean 'lora'"):
        run(tmp_path / "a", fields, methods="lorra")
    with pytest.raises(AutopeftError, match="seeds: expected a whole number from 1 to 100, not 0"):
        run(tmp_path / "b", fields, seeds=0)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "comparison.json").write_text('{"id": "x", "terms": {}, "entries": {"lora": {"tuning": 3}}}')
    with pytest.raises(AutopeftError, match=r"comparison.json: entries.lora.tuning.*restore a copy"):
        run(tmp_path / "c", fields)


def test_rates_are_a_grid_around_the_usual_one() -> None:
    assert grid(1e-3) == [1.8e-4, 5.6e-4, 1.8e-3, 5.6e-3]
    assert grid(1e-3, 3) == [3.2e-4, 1e-3, 3.2e-3]
    tried = [
        Training(learning_rate=1.0, seed=0, validation={"accuracy": 0.5, "loss": 2.0}, test={"test_accuracy": 0.9}),
        Training(learning_rate=2.0, seed=0, validation={"accuracy": 0.5, "loss": 1.0}, test={"test_accuracy": 0.1}),
        Training(learning_rate=3.0, seed=0, error="the loss is nan"),
    ]
    assert choose("accuracy", tried) is tried[1]
    assert choose("loss", tried) is tried[1]
    assert choose("accuracy", tried[2:]) is None


def test_memory_is_what_lives_at_once() -> None:
    with Peak(torch.device("cpu")) as peak:
        kept = torch.zeros(1000, 1000)
        gone = torch.zeros(500, 1000)
        del gone
        view = kept.t()
        view.add_(1)
        torch.ones(250, 1000)
    assert peak.bytes == 6_000_000
    with Peak(torch.device("cpu")) as peak:
        with peak.paused():
            torch.zeros(1000, 1000)
        # The graph keeps the first product for the gradient of the second.
        weight = torch.ones(100, 100, requires_grad=True)
        saved = ((weight * 2) ** 2).sum()
    assert 3 * 40_000 <= peak.bytes < 4 * 40_000 + 100
    assert saved.requires_grad


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_presets_are_one_hybrid_each(family: str, tmp_path: Path) -> None:
    from tiny_task import save_model

    shape = find_model(str(save_model(tmp_path, family))).shape()
    found = {c.name: c for c in contenders(shape, presets())}
    assert {"houlsby", "mam"} <= found.keys()
    for contender in found.values():
        assert contender.error is None
        assert contender.hybrid is not None
        assert all(contender.hybrid.layers)
    everything = contenders(shape)
    hybrids = [c.hybrid for c in everything if c.hybrid is not None]
    assert len(set(hybrids)) == len(hybrids)
    assert {c.name for c in everything} >= {"head_only", "full_fine_tuning", "lora", "mam"}


def test_controls_and_what_is_compared_have_the_same_names(fields: dict[str, Any]) -> None:
    shape = find_model(fields["model"]).shape()
    names = [c.name for c in contenders(shape, "head,full,head_only,lora")]
    assert names == ["head_only", "full_fine_tuning", "lora"]


def test_a_method_may_stand_for_many(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, shape = METHODS.get("parallel"), find_model(fields["model"]).shape()
    makers = {f"parallel:{size}": partial(adapter, size) for size in (2, 4, 0)}
    monkeypatch.setattr(adapter, "variants", lambda: makers | {"parallel:bad": partial(adapter, -1)})
    monkeypatch.setattr(adapter, "usual_rate", 0.5)
    two, bad = contenders(shape, ["parallel:2", "parallel:bad"])
    assert two.hybrid == Hybrid.uniform(shape.layers, adapter(2))
    assert (two.rate, two.family) == (0.5, "additive")
    assert bad.hybrid is None
    assert "bottleneck must be a whole number" in (bad.error or "")
    # Times the method's factor, that is the usual rate again.
    assert contenders(shape, ["parallel:2"], "usual")[0].rate * adapter.relative_rate() == 0.5
    for name, factor in (("houlsby", METHODS.get("sequential").relative_rate()), ("mam", 1.0)):
        (shared,), (usual,) = contenders(shape, [name]), contenders(shape, [name], "usual")
        assert usual.rate * factor == pytest.approx(shared.rate)
    # Size 0 is the head alone, which has a row.
    assert "parallel:0" not in {c.name for c in contenders(shape)}


def test_spaces_with_one_hybrid_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = autopeft(capsys, "list", "spaces", "--json")
    said = {entry["name"]: entry["description"] for entry in json.loads(out)}
    assert {name for name, text in said.items() if text.startswith("one hybrid: ")} == set(presets())
    assert "hybrid" not in presets()


@pytest.mark.slow
def test_a_signal_ends_it_with_its_status(fields: dict[str, Any], tmp_path: Path) -> None:
    project = write_experiment(Path(fields["model"]).parent)
    command = [sys.executable, "-m", "autopeft", "compare", str(project), "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--seeds", "20"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "test accuracy" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert err.endswith("autopeft: ended by SIGTERM; the comparison goes on with the same command\n")
    assert process.returncode == 143
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]


@pytest.mark.slow
def test_mlflow_has_a_run_a_method(
    fields: dict[str, Any], compared: Comparison, tmp_path: Path, mlflow_database: Path
) -> None:
    from mlflow import MlflowClient

    (tmp_path / "out").mkdir()
    shutil.copy(mlflow_database, tmp_path / "out" / "mlflow.db")
    done = run(tmp_path / "out", {**fields, "tracking": {"name": "mlflow"}})
    client = MlflowClient(f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("autopeft").experiment_id])
    by_name = {r.data.params.get("method", "parent"): r for r in runs}
    assert by_name.keys() == {"parent", "lora", "full_fine_tuning"}
    assert by_name["lora"].data.metrics["test_accuracy"] == done.rows[0]["test_accuracy"]
    assert by_name["full_fine_tuning"].data.params["hybrid"] == "full fine tuning"
    assert {f.path for f in client.list_artifacts(by_name["parent"].info.run_id)} >= {"compare.csv", "compare.png"}
