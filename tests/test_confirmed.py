"""Whole searches that begin with controls and confirm their front: in this process, after a kill, and on Ray."""

from __future__ import annotations

import csv
import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_project
from kill_points import CONFIRMING, Killed, arm, ended
from test_confirming import Memory
from test_resumed import assert_same, facts

from autopeft import confirming
from autopeft.baselines import BASELINES
from autopeft.cli.fronts import show_front
from autopeft.experiment import Experiment
from autopeft.progress import Silent
from autopeft.recording import board_of
from autopeft.result import SearchResult, export
from autopeft.searching.confirming.records import baseline_in, runs_in
from autopeft.session import Session

#: The time is no limit here: it would make what is trained depend on the machine.
FIELDS: dict[str, Any] = {
    "trials": 9,
    "controls": {"names": ["head", "lora"], "share": 0.7},
    "confirm": {"seeds": 3, "members": 2, "time": 100},
    "runner": {"name": "in_process", "cpus": 1, "pack": 4},
    "sampler": {"name": "known_cost", "startup": 2, "seed": 3},
    "stopping": "none",
    "training": {"epochs": 2, "batch_size": 16, "max_length": 16, "precision": "fp32", "learning_rate": 0.01},
}


pytestmark = pytest.mark.usefixtures("one_setup")


def search(project: Path, out: Path, **changes: Any) -> SearchResult:
    return tiny_project.search(project, out, FIELDS, **changes)


@pytest.fixture(scope="module")
def undisturbed(project: Path) -> SearchResult:
    return search(project, project / "undisturbed")


def written(result: SearchResult) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((result.run_dir / "front.json").read_text())
    return data


def test_a_search_begins_with_controls_and_confirms_its_front(undisturbed: SearchResult) -> None:
    evaluations, data = undisturbed.evaluations, written(undisturbed)
    assert len(evaluations) == 9
    costs = [e.metrics["trainable_params"] for e in evaluations[:4]]
    assert costs == sorted(costs)
    assert [e.candidate.hybrid.is_empty for e in evaluations[:4]] == [True] + [False] * 3
    # And at most one more, at a further rate.
    controls = {e.key for e in evaluations if e.role.startswith("control ")}
    assert controls == {e.key for e in evaluations} & undisturbed.front.verdict.names.keys()
    assert len(controls) in {4, 5}
    assert data == undisturbed.front.to_json()
    known = [point for point in data["points"] if "confirmed" in point]
    assert known
    for point in known:
        assert point["born"] == "trained"
        assert point["parent"] is None
        assert point["confirmed"]["seeds"] == 3
        assert {"accuracy", "test_accuracy", "p_front"} < point["confirmed"].keys()
        assert point["confirmed"]["test_accuracy"]["sd"] is not None
        # The searched one is among the seeds: with it, and without more than it, there would be no other mean.
        assert point["confirmed"]["loss"]["mean"] != point["metrics"]["loss"]
    assert data["optimism"] is not None
    assert data["controls"]
    assert all(control["confirmed"]["seeds"] == 3 for control in data["controls"])
    assert len(data["gains"]) == len(known)


def test_weights_of_other_seeds_are_kept_for_members_alone(undisturbed: SearchResult) -> None:
    stems = {path.stem for path in (undisturbed.run_dir / "weights").iterdir()}
    kept = set()
    for point in written(undisturbed)["points"]:
        kept |= {point["key"]} | {f"{point['key']}-seed{seed}" for seed in (1, 2) if "confirmed" in point}
    assert stems == kept


def test_what_is_gained_is_said(undisturbed: SearchResult, capsys: pytest.CaptureFixture[str]) -> None:
    show_front(undisturbed.run_dir, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    for gain in undisturbed.front.verdict.gains:
        assert gain.words[1:] in shown
    assert "Optimism: on validation" in shown
    with (undisturbed.run_dir / "trials.csv").open() as table:
        rows = list(csv.DictReader(table))
    controls = [row for row in rows if row["control"]]
    assert [row["role"] for row in controls] == [f"control {row['control']}" for row in controls]
    assert rows[:4] == controls[:4]
    assert {row["role"] for row in rows if not row["control"]} == {"sampler"}


def test_an_export_has_the_weights_of_the_median_seed(undisturbed: SearchResult, tmp_path: Path) -> None:
    point = next(p for p in undisturbed.front.points if p.number in undisturbed.front.verdict.confirmed)
    fresh = runs_in(undisturbed.remembered)[point.number]
    scores = {run.seed: run.metrics["accuracy"] for run in fresh} | {point.seed: point.metrics["accuracy"]}
    assert scores.keys() == {0, 1, 2}
    median = sorted(scores, key=lambda seed: (-scores[seed], seed))[1]
    other = next(seed for seed in scores if seed != median)
    files = []
    for asked, seed in ((None, median), (other, other)):
        folder = export(undisturbed, point.key, tmp_path / str(asked), format="autopeft", seed=asked)
        record = json.loads((folder / "hybrid.json").read_text())
        assert (record["seed"], record["metrics"]["accuracy"]) == (seed, scores[seed])
        assert "test_accuracy" in record["metrics"]
        assert [(step["seed"], step["train"]) for step in record["recipe"]] == [
            (seed, point.candidate.hybrid.to_json())
        ]
        files.append((folder / "adapter_model.safetensors").read_bytes())
    assert files[0] != files[1]
    confirmed = undisturbed.front.verdict.confirmed[point.number].scores
    assert confirmed["accuracy"].mean == pytest.approx(sum(scores.values()) / 3)


def kill() -> None:
    raise Killed


def test_ended_while_it_confirms_it_goes_on_the_same(
    project: Path, undisturbed: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        arm("the second other seed, its first epoch", kill, patched)
        with pytest.raises(Killed):
            search(project, tmp_path / "run")
    killed = SearchResult.open(tmp_path / "run")
    assert (killed.finished, killed.front.to_json()["finished"], undisturbed.finished) == (False, False, True)
    assert_same(search(project, tmp_path / "run"), undisturbed)


@pytest.mark.slow
def test_a_search_that_has_ended_may_be_confirmed_later(
    project: Path, undisturbed: SearchResult, tmp_path: Path
) -> None:
    plain = search(project, tmp_path / "run", confirm="none")
    assert "optimism" not in written(plain)
    assert "confirmed" not in written(plain)["controls"][0]
    later = search(project, tmp_path / "run")
    assert facts(later.evaluations) == facts(undisturbed.evaluations)
    found, whole = written(later), written(undisturbed)
    # Who fell off the front had been on it, and been measured on test, before there were other seeds.
    off, there = (
        [(point["key"], point["confirmed"]["accuracy"]) for point in data.pop("confirmed_off_front")]
        for data in (found, whole)
    )
    assert off == there
    assert found == whole


@pytest.mark.slow
@pytest.mark.parametrize("point", CONFIRMING)
def test_killed_while_it_confirms_it_goes_on_the_same(
    point: str, project: Path, undisturbed: SearchResult, tmp_path: Path
) -> None:
    assert ended(project, tmp_path / "run", point, signal.SIGKILL, FIELDS) == -signal.SIGKILL
    assert_same(search(project, tmp_path / "run"), undisturbed)


@pytest.mark.slow
def test_full_fine_tuning_is_measured_beside(
    project: Path, undisturbed: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"controls": {"names": ["head", "lora", "full"], "share": 0.7}}
    # Three rates are tried; the best one is trained with another seed when it is killed.
    monkeypatch.setattr(confirming, "_fit", counted := _Counted(confirming._fit, 5, kill))
    with pytest.raises(Killed):
        search(project, tmp_path / "run", **changes)
    found = search(project, tmp_path / "run", **changes)
    assert counted.calls == 6
    *hybrids, full = written(found)["controls"]
    assert hybrids == written(undisturbed)["controls"]
    assert full["name"] == "full_fine_tuning"
    assert full["confirmed"]["seeds"] == 3
    assert full["confirmed"]["test_accuracy"]["sd"] is not None
    assert full["metrics"]["trainable_params"] > 20_000


def test_a_rate_at_which_a_baseline_diverges_is_not_chosen(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objectives = ["loss", "trainable_params"]
    session = Session(Experiment.of(tiny_project.experiment(project, **FIELDS, objectives=objectives), "test"))
    cls, rates = BASELINES.get("full_fine_tuning"), list[float]()
    fit = cls.fit

    def diverging(self: Any, source: Any, task: Any, settings: Any) -> Any:
        fitted = fit(self, source, task, settings)
        rates.append(settings.learning_rate)
        # Its weights broke in the last step, after a loss that was a number.
        last = {**fitted.curve[-1], "loss": math.nan}
        return replace(fitted, curve=(last,)) if len(rates) == 1 else fitted

    monkeypatch.setattr(cls, "fit", diverging)
    memory: Any = Memory()
    progress = Silent()
    progress.on(board_of(session.experiment))
    confirming._train_baseline(session, memory, "full", "full_fine_tuning", progress)
    runs, _, rate = baseline_in(memory.remembered, "full") or ([], {}, 0.0)
    assert rate in rates[1:3]
    assert [run.status for run in runs] == ["done"] * 3
    assert all(math.isfinite(run.metrics["loss"]) for run in runs)


class _Counted:
    """A function that counts its calls, and is killed before one of them."""

    def __init__(self, function: Any, killed: int, kill: Any) -> None:
        self._function, self._killed, self._kill, self.calls = function, killed, kill, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls == self._killed:
            self._kill()
        return self._function(*args)


@pytest.mark.slow
def test_ray_confirms_the_same(project: Path, undisturbed: SearchResult, tmp_path: Path) -> None:
    found = search(project, tmp_path / "run", runner={"name": "ray", "workers": 1, "pack": 4})
    assert written(found) == written(undisturbed)
