"""Candidates that are stopped early: in the engine, in searches of both runners, in what is shown of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from optuna.trial import TrialState
from test_search import HERE, RAY, comparable, finished_in, run, start_and_signal
from test_study import OBJECTIVES, evaluated, in_optuna, opened
from test_views import told, views_of
from tiny_models import LAYERS
from tiny_packs import SETTINGS, mixed
from tiny_project import not_measured, write_experiment
from tiny_task import save_model, task, tokenizer
from tiny_worker import assert_bare, backbone_state, evaluate

from autopeft.candidate import Candidate, Evaluation
from autopeft.engine import worker as worker_module
from autopeft.engine.data import TokenizedTask
from autopeft.engine.kept import load_weights
from autopeft.engine.pack import Pack
from autopeft.engine.train import epochs
from autopeft.engine.worker import Run, Worker, WorkerSpec
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.launch import launch
from autopeft.models import find_model
from autopeft.progress import Silent
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.searching.front import ParetoFront
from autopeft.searching.study import Study

EPOCHS = SETTINGS.epochs
MEMBERS = mixed(LAYERS, seed=0)
DIVERGING = Candidate(MEMBERS[0].hybrid, {"learning_rate": 1e30})
#: A rule that stops something in a dozen of candidates, and a training that it can be asked in.
OURS = {"name": "known_cost", "startup": 6}
HALVING = {"name": "halving", "startup": 2}
TRAINING = {"epochs": 3, "batch_size": 16, "max_length": 16, "precision": "fp32", "learning_rate": 0.01}


@pytest.fixture(scope="module")
def data() -> TokenizedTask:
    return TokenizedTask.of(task(pairs=True, sizes=(104, 40, 40)), tokenizer(), 32)


@pytest.fixture(scope="module")
def worker(data: TokenizedTask, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    folder = tmp_path_factory.mktemp("model")
    return Worker(WorkerSpec(find_model(str(save_model(folder))), SETTINGS, keep=folder / "weights"), data)


@pytest.fixture(scope="module")
def alone(worker: Worker) -> list[Evaluation]:
    """The members, each trained to its end by itself."""
    found = [evaluate(worker, c) for c in MEMBERS]
    for c in MEMBERS:
        (worker.spec.keep / f"{c.key}.safetensors").unlink()
    return found


def drive(run: Run, stops: Mapping[int, Sequence[int]]) -> tuple[list[Evaluation], list[list[int]]]:
    """The evaluations, and whose metrics came after each epoch, when `stops` are sent after these epochs."""
    sent, seen = None, []
    while True:
        try:
            seen.append(sorted(run.send(sent)))
            sent = stops.get(len(seen))
        except StopIteration as end:
            return end.value, seen


def assert_as_alone(found: Evaluation, alone: Evaluation) -> None:
    """As far as it got."""
    for own, other in zip(found.curve, alone.curve, strict=False):
        for name in ("train_loss", "loss"):
            assert own[name] == pytest.approx(other[name], rel=1e-5)
        assert own["accuracy"] == other["accuracy"]


# --- the engine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stops", [{1: [0]}, {1: [4, 2]}, {2: [1, 3]}, {1: [0], 2: [1], 3: [2, 3]}, {2: [0, 1, 2, 3], 3: []}], ids=str
)
def test_the_others_go_on_as_if_alone(
    stops: dict[int, list[int]], worker: Worker, alone: list[Evaluation], tmp_path: Path
) -> None:
    before = backbone_state(worker)
    found, seen = drive(worker.run(MEMBERS), stops)
    epoch = {i: e for e, positions in stops.items() for i in positions}
    assert [e.candidate for e in found] == MEMBERS
    assert [e.fidelity for e in found] == [epoch.get(i, EPOCHS) for i in range(len(MEMBERS))]
    assert seen == [[i for i in range(len(MEMBERS)) if epoch.get(i, EPOCHS) >= e] for e in range(1, EPOCHS + 1)]
    for i, (evaluation, own) in enumerate(zip(found, alone, strict=True)):
        assert_as_alone(evaluation, own)
        assert evaluation.status == ("stopped" if i in epoch else "done")
        assert evaluation.metrics == {k: v for k, v in evaluation.curve[-1].items() if k != "epoch"}
        assert (load_weights(worker.spec.keep, evaluation.key) is None) == (i in epoch)
        (worker.spec.keep / f"{evaluation.key}.safetensors").unlink(missing_ok=True)
        assert evaluation.seconds > 0
    assert_bare(worker, before)


def test_when_all_are_stopped_the_run_ends(worker: Worker) -> None:
    before = backbone_state(worker)
    found, seen = drive(worker.run(MEMBERS), {1: [0, 1], 2: range(5)})
    assert [len(positions) for positions in seen] == [5, 3]
    assert [(e.status, e.fidelity) for e in found] == [("stopped", 1)] * 2 + [("stopped", 2)] * 3
    assert_bare(worker, before)


def test_after_the_last_epoch_nothing_is_stopped(worker: Worker) -> None:
    found, _ = drive(worker.run(MEMBERS[:2]), {EPOCHS: [0, 1]})
    assert [e.status for e in found] == ["done", "done"]
    assert all(load_weights(worker.spec.keep, e.key) for e in found)


def test_beside_one_that_diverges(worker: Worker, alone: list[Evaluation]) -> None:
    """Its position is no more, and that of the others stays."""
    found, seen = drive(worker.run([MEMBERS[0], DIVERGING, MEMBERS[1], MEMBERS[3]]), {1: [2, 1], 2: [2]})
    assert [e.status for e in found] == ["done", "failed", "stopped", "done"]
    assert seen == [[0, 2, 3], [0, 3], [0, 3], [0, 3]]
    for evaluation, own in ((found[0], alone[0]), (found[2], alone[1]), (found[3], alone[3])):
        assert_as_alone(evaluation, own)
    assert found[2].fidelity == 1


def test_an_error_later_leaves_them_stopped(
    worker: Worker, alone: list[Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is trained again, and may be stopped or not."""
    tried = []

    def break_once(pack: Pack, *args: Any) -> Iterator[list[dict[str, float]]]:
        tried.append(list(pack.candidates))
        for metrics in epochs(pack, *args):
            if metrics[0]["epoch"] == 2 and len(tried) == 1:
                raise MemoryError("no room")
            yield metrics

    monkeypatch.setattr(worker_module, "epochs", break_once)
    found, seen = drive(worker.run(MEMBERS[:4]), {1: [0], 2: [1]})
    assert [{MEMBERS.index(c) for c in members} for members in tried] == [{0, 1, 2, 3}, {1}, {2, 3}]
    assert seen == [[0, 1, 2, 3], [1], [2, 3], [2, 3], [2, 3], [2, 3]]
    assert [(e.status, e.fidelity) for e in found] == [("stopped", 1), ("stopped", 1), ("done", 4), ("done", 4)]
    for evaluation, own in zip(found, alone, strict=False):
        assert_as_alone(evaluation, own)


# --- a search --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _setup() -> Iterator[None]:
    """Searches are compared here."""
    with not_measured():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return search(tmp_path_factory.mktemp("finished"))


def search(folder: Path, out: str = "run", **changes: Any) -> SearchResult:
    fields = {"trials": 12, "training": TRAINING, "stopping": HALVING, "runner": {**HERE, "pack": 4}, "sampler": OURS}
    return run(folder, out, **{**fields, **changes})


def stopped(result: SearchResult) -> list[Evaluation]:
    return [e for e in result.evaluations if e.status == "stopped"]


def test_a_search_stops_candidates_and_counts_them(finished: SearchResult) -> None:
    assert len(finished.evaluations) == 12
    assert 1 < len(stopped(finished)) < 11
    assert {e.fidelity for e in stopped(finished)} <= {1, 2}
    assert all(e.fidelity == 3 for e in finished.evaluations if e.status == "done")


def test_the_front_is_of_those_that_were_trained_to_the_end(finished: SearchResult) -> None:
    assert {e.status for e in finished.front.points} == {"done"}
    kept = {p.stem for p in (finished.run_dir / "weights").glob("*.safetensors")}
    assert kept == {e.key for e in finished.front.points}
    assert not any("test_accuracy" in e.metrics for e in stopped(finished))
    with pytest.raises(AutopeftError, match="was stopped early; only what was trained to its end"):
        finished.front.pick(stopped(finished)[0].key)


def test_the_table_says_how_far_each_got(finished: SearchResult) -> None:
    table = pd.read_csv(finished.run_dir / "trials.csv")
    assert list(table["status"]) == [e.status for e in finished.evaluations]
    assert list(table["epochs"]) == [e.fidelity for e in finished.evaluations]


def test_samplers_learn_from_them(finished: SearchResult) -> None:
    trials = in_optuna(finished.run_dir).trials
    for e, trial in zip(finished.evaluations, trials, strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [e.curve[-1]["accuracy"], e.metrics["trainable_params"]]


def test_other_rules_in_the_folder_are_refused(finished: SearchResult) -> None:
    resolved = {**finished.experiment.resolved(), "stopping": "none"}
    assert "stopping.name" in (Experiment.of(resolved, "x").difference(finished.experiment) or "")
    resolved["stopping"] = {**HALVING, "factor": 3}
    with pytest.raises(AutopeftError, match=r"stopping\.factor \(there: 2, now: 3\)"):
        launch(Experiment.of(resolved, "x"), finished.run_dir, Silent())


def test_the_default_is_pareto(tmp_path: Path) -> None:
    fields = {"name": "x", "model": "m", "task": "docstrings", "trials": 1}
    assert Experiment.of(fields, "x").stopping.name == "pareto"
    assert Experiment.of({**fields, "stopping": "none"}, "x").resolved()["stopping"] == {"name": "none"}


def test_pareto_stops_what_it_can_tell_from_enough(tmp_path: Path) -> None:
    rule = {"name": "pareto", "startup": 6, "confidence": 0.7}
    found = search(tmp_path, trials=20, stopping=rule)
    assert all(e.status == "done" for e in found.evaluations[:8]), "six have ended with the second pack"
    assert stopped(found)


def test_both_runners_stop_the_same(finished: SearchResult, tmp_path: Path) -> None:
    there = search(finished.run_dir.parent, "there", runner={"name": "ray", "workers": 1, "pack": 4})
    assert comparable(there.evaluations) == comparable(finished.evaluations)


def test_a_resumed_search_stops_the_same(finished: SearchResult) -> None:
    folder = finished.run_dir.parent
    search(folder, "parts", trials=8)
    parts = search(folder, "parts")
    for one, other in zip(comparable(parts.evaluations), comparable(finished.evaluations), strict=True):
        # Members of a front of eight were measured on test.
        both = one["metrics"].keys() & other["metrics"].keys()
        assert {k: one["metrics"][k] for k in both} == {k: other["metrics"][k] for k in both}
        assert (one["status"], one["curve"]) == (other["status"], other["curve"])


def test_killed_and_resumed_with_stopped_ones(tmp_path: Path) -> None:
    changes = {"trials": 24, "training": TRAINING, "stopping": HALVING, "runner": {**HERE, "pack": 4}, "sampler": OURS}
    path, out = write_experiment(tmp_path, **changes), tmp_path / "run"
    _, ended = start_and_signal(path, out, signal.SIGKILL)
    assert ended == -signal.SIGKILL
    before = Study.read(out)
    assert 3 <= len(before) == finished_in(out) < 24
    launch(Experiment.load(path), out, Silent())
    after = Study.read(out)
    assert [e.number for e in after] == list(range(24))
    assert any(e.status == "stopped" for e in after)
    kept = {e.number: e for e in after}
    assert all(kept[e.number].seconds == e.seconds for e in before)


@pytest.mark.slow
def test_a_worker_that_is_killed_begins_its_pack_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its second epoch, with some of the pack stopped; the next worker comes to the same."""
    expected = search(tmp_path, "expected", trials=8)
    from autopeft.runners import _tune

    class Killed(_tune.PackTrainable):
        def step(self) -> dict[str, Any]:
            flag = Path(os.environ["AUTOPEFT_TEST_FLAG"])
            if self.iteration == 1 and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step()

    monkeypatch.setenv("AUTOPEFT_TEST_FLAG", str(tmp_path / "flag"))
    monkeypatch.setattr(_tune, "PackTrainable", Killed)
    found = search(tmp_path, "found", trials=8, runner={"name": "ray", "workers": 1, "pack": 4})
    assert (tmp_path / "flag").exists()
    assert comparable(found.evaluations) == comparable(expected.evaluations)


@pytest.mark.slow
@pytest.mark.parametrize("often", [1, 99])
def test_a_worker_that_cannot_start_fails_no_candidate(
    often: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For lack of memory, say: what it was to train is trained by the next one, or when the search goes on."""
    expected = search(tmp_path, "expected", trials=8)
    from autopeft.runners import _tune

    class Refused(_tune.PackTrainable):
        def _start(self) -> None:
            flags = Path(os.environ["AUTOPEFT_TEST_FLAG"])
            count = len(list(flags.iterdir()))
            (flags / str(count)).touch()
            whole, task = self._given
            # The spec of a folder that holds no model.
            none = replace(whole, source=replace(whole.source, location="/none"))
            self._given = (whole if count >= often else none, task)
            super()._start()
            self._given = (whole, task)

    (tmp_path / "flags").mkdir()
    monkeypatch.setenv("AUTOPEFT_TEST_FLAG", str(tmp_path / "flags"))
    ray = {"name": "ray", "workers": 1, "pack": 4}
    with monkeypatch.context() as patched:
        patched.setattr(_tune, "PackTrainable", Refused)
        if often == 1:
            assert comparable(search(tmp_path, "found", trials=8, runner=ray).evaluations) == comparable(
                expected.evaluations
            )
            return
        with pytest.raises(AutopeftError, match=r"runner: the worker could not start: .*; mend that"):
            search(tmp_path, "found", trials=8, runner=ray)
    assert len(list((tmp_path / "flags").iterdir())) == 3
    assert SearchResult.open(tmp_path / "found").evaluations == []
    assert comparable(search(tmp_path, "found", trials=8).evaluations) == comparable(expected.evaluations)


@pytest.mark.slow
def test_after_a_spoilt_worker_the_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something unforeseen has happened on it; Tune forgets a pack that a worker declines, and would wait for ever."""
    expected = search(tmp_path, "expected", trials=8)
    from autopeft.runners import _tune

    class Spoilt(_tune.PackTrainable):
        def step(self) -> dict[str, Any]:
            assert self._worker is not None
            assert not self._worker.spoilt or self.iteration
            self._worker.spoilt = True
            return super().step()

    monkeypatch.setattr(_tune, "PackTrainable", Spoilt)
    found = search(tmp_path, "found", trials=8, runner={"name": "ray", "workers": 1, "pack": 4})
    assert comparable(found.evaluations) == comparable(expected.evaluations)


@pytest.mark.slow
def test_workers_side_by_side_stop_too(tmp_path: Path) -> None:
    found = search(tmp_path, trials=16, runner={**RAY, "pack": 2})
    assert [e.number for e in found.evaluations] == list(range(16))
    assert stopped(found)
    assert {e.status for e in found.front.points} == {"done"}


# --- what is kept and shown ------------------------------------------------------------------------------------------


def test_a_stopped_evaluation_is_kept_whole(tmp_path: Path) -> None:
    study = opened(tmp_path)
    one = study.tell(evaluated(study.ask(), status="stopped"))
    assert (one.status, one.fidelity) == ("stopped", 2)
    assert Study.read(tmp_path) == [one]
    assert study.finished == 1
    assert opened(tmp_path).pending() == []
    no_number = study.tell(evaluated(study.ask(), status="stopped", metrics={"trainable_params": 1}))
    assert no_number.status == "failed"


def test_it_is_not_on_the_front_however_good_it_was() -> None:
    candidate = MEMBERS[0]
    good = Evaluation(candidate, "stopped", {"accuracy": 1.0, "trainable_params": 1}, number=0)
    bad = replace(good, status="done", candidate=MEMBERS[1], metrics={"accuracy": 0.1, "trainable_params": 9}, number=1)
    front = ParetoFront([good, bad], OBJECTIVES)
    assert front.points == front.done == (bad,)
    assert front.hypervolume_curve()[0] == 0.0


def test_the_summary_counts_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.weights.mkdir(parents=True)
    study = opened(folder.path)
    for status in ("done", "stopped", "failed"):
        told(study, folder, status=status, error="x" if status == "failed" else None)
    views, summaries = views_of(folder, study), []

    class Kept:
        def sync(self, *args: Any) -> None:
            pass

        def finish(self, *args: Any) -> None:
            summaries.append(args[4])

    views._tracker = Kept()  # type: ignore[assignment]
    views.finish("FINISHED")
    summary = summaries[0]
    assert (summary["candidates"], summary["failed"], summary["stopped"]) == (3, 1, 1)
    assert summary["training_samples"] == 6 * 96
