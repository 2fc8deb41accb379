"""Trainings that begin at weights that are there already, and sources that propose them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_study import opened
from tiny_models import everywhere
from tiny_task import save_model, task, tokenizer
from tiny_worker import evaluate

from autopeft.candidate import Candidate, Evaluation, Job, Origin
from autopeft.engine.data import TokenizedTask
from autopeft.engine.kept import load_weights, save_weights
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.errors import AutopeftError
from autopeft.methods.lora import LoRA
from autopeft.models import find_model
from autopeft.searching.loop import SearchLoop

SETTINGS = TrainingSettings(head="drawn", method_rates="shared", epochs=2, batch_size=8, precision="fp32", seed=1)
BIG, SMALL = (Candidate(everywhere(LoRA(rank)), {"learning_rate": 3e-3}) for rank in (4, 2))
ORIGIN = Origin("parent", "parent-cut")


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    source = find_model(str(save_model(tmp_path / "model")))
    return Worker(WorkerSpec(source, SETTINGS, keep=tmp_path / "weights"), TokenizedTask.of(task(), tokenizer(), 32))


def kept(worker: Worker, job: Candidate | Job) -> dict[str, object]:
    folder = worker.spec.keep
    assert folder is not None
    weights = load_weights(folder, SETTINGS.weights_name(job))
    assert weights is not None
    return dict(weights)


def begin(worker: Worker, candidate: Candidate, start: str) -> Job:
    """A job that goes on for an epoch from what training the candidate gave."""
    assert evaluate(worker, candidate).status == "done"
    folder = worker.spec.keep
    assert folder is not None
    weights = load_weights(folder, candidate.key)
    assert weights is not None
    save_weights(folder, start, weights)
    return Job(candidate, epochs=1, origin=Origin(candidate.key, start))


def test_a_training_goes_on_from_its_origin(worker: Worker) -> None:
    job = begin(worker, BIG, "big-start")
    [healed], fresh = drain(worker.run([job])), evaluate(worker, BIG)
    assert healed.status == "done"
    assert (healed.born, fresh.born) == ("healed", "trained")
    assert healed.curve[0]["train_loss"] < fresh.curve[0]["train_loss"]
    assert (healed.epochs, healed.fidelity) == (1, 1)
    # Its weights are kept beside those of the whole training, which are what they were.
    assert SETTINGS.weights_name(job) == f"{BIG.key}-epochs1-from-big-start"
    assert kept(worker, job).keys() == kept(worker, BIG).keys()
    assert Evaluation.from_json(healed.to_json()) == healed


def test_origins_are_packed_like_others(worker: Worker) -> None:
    jobs = [begin(worker, BIG, "big-start"), begin(worker, SMALL, "small-start"), Job(BIG, epochs=1)]
    together = drain(worker.run(jobs))
    for packed, job in zip(together, jobs, strict=True):
        [alone] = drain(worker.run([job]))
        assert packed.curve[0]["train_loss"] == pytest.approx(alone.curve[0]["train_loss"], rel=1e-5)
    assert len({e.curve[0]["train_loss"] for e in together}) == 3


@pytest.mark.parametrize("there", [False, True], ids=["no file", "another's"])
def test_an_origin_that_does_not_fit_is_a_failure_of_its_own(worker: Worker, there: bool) -> None:
    if there:
        begin(worker, SMALL, "parent-cut")
    bad, good = drain(worker.run([Job(BIG, epochs=1, origin=ORIGIN), Job(SMALL, epochs=1)]))
    assert bad.status == "failed"
    assert "parent-cut" in str(bad.error)
    assert good.status == "done"


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a.b", 3])
def test_an_origin_names_no_file_elsewhere(name: object) -> None:
    data = Job(BIG, origin=ORIGIN).to_json()
    assert Job.from_json(data) == Job(BIG, origin=ORIGIN)
    with pytest.raises(AutopeftError, match="origin"):
        Job.from_json({**data, "origin": {"parent": "p", "start": name}})


def test_what_came_later_is_left_out_of_json() -> None:
    assert Job(BIG).to_json().keys() == {"candidate", "seed", "epochs"}
    assert not {"epochs", "origin"} & Evaluation(BIG, "done", {}).to_json().keys()


class Script:
    """A source that proposes jobs one by one, each after the one before has ended."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = jobs

    def next(self, ended: Sequence[Evaluation], running: Sequence[Job], most: int) -> list[Job] | None:
        known = {e.job.name for e in ended}
        left = [job for job in self.jobs if job.name not in known]
        return None if not left else [] if left[0].name in {job.name for job in running} else left[:1]

    def needs(self, ended: Sequence[Evaluation]) -> Collection[str]:
        return [BIG.key]


JOBS = [Job(BIG), Job(SMALL, epochs=1, origin=ORIGIN)]


COSTS = {"trainable_params": 1, "training_flops": 1}


def looped(run: Path, *sources: Script, trials: int = 4) -> SearchLoop:
    return SearchLoop(opened(run), lambda hybrid: COSTS, (), trials, sources=sources)


def ended(job: Job) -> Evaluation:
    return Evaluation(job.candidate, "done", {"accuracy": 0.5}, seed=0, epochs=job.epochs, origin=job.origin)


def test_sources_come_before_the_sampler_and_count_as_trials(tmp_path: Path) -> None:
    loop, seen = looped(tmp_path, Script(*JOBS)), []
    assert loop.needed == {BIG.key}
    while pack := loop.next_pack(1):
        seen += [p.job for p in pack]
        loop.done({p.number: ended(p.job) for p in pack})
    assert seen[:2] == JOBS
    assert len(seen) == 4
    assert all(job.is_whole for job in seen[2:])
    assert loop.needed == set()


def test_weights_are_kept_for_a_source_that_would_have_more(tmp_path: Path) -> None:
    loop = looped(tmp_path, Script(*JOBS), trials=2)
    for job in JOBS:
        assert loop.needed == {BIG.key}
        [proposal] = loop.next_pack(1)
        loop.done({proposal.number: ended(job)})
    assert loop.needed == set()
    # One that goes on after its last trial has asked no source yet.
    again = looped(tmp_path, Script(*JOBS), trials=2)
    assert again.next_pack(1) == []
    assert again.needed == set()


def test_nobody_waits_for_a_source(tmp_path: Path) -> None:
    loop = looped(tmp_path, Script(*JOBS))
    [first], [other] = loop.next_pack(1), loop.next_pack(1)
    assert first.job == JOBS[0]
    assert other.job.name not in {job.name for job in JOBS}
    loop.done({first.number: ended(first.job)})
    assert [p.job for p in loop.next_pack(1)] == JOBS[1:]


def test_what_a_killed_search_was_at_comes_again(tmp_path: Path) -> None:
    loop = looped(tmp_path, Script(*JOBS))
    [first] = loop.next_pack(1)
    loop.done({first.number: ended(first.job)})
    [open_] = loop.next_pack(1)
    again = looped(tmp_path, Script(*JOBS))
    assert again.next_pack(1) == [open_]
    again.done({open_.number: ended(open_.job)})
    assert [e.origin for e in opened(tmp_path).evaluations()] == [None, ORIGIN]


def test_a_source_that_repeats_itself_is_asked_no_more(tmp_path: Path) -> None:
    class Stubborn(Script):
        def next(self, ended: Sequence[Evaluation], running: Sequence[Job], most: int) -> list[Job] | None:
            return [JOBS[0]]

    loop = looped(tmp_path, Stubborn())
    [first] = loop.next_pack(1)
    loop.done({first.number: ended(first.job)})
    with pytest.warns(UserWarning, match="Stubborn repeats itself"):
        [second] = loop.next_pack(1)
    assert second.job != first.job


def test_a_failed_training_keeps_where_it_began(tmp_path: Path) -> None:
    loop = looped(tmp_path, Script(JOBS[1]))
    [proposal] = loop.next_pack(1)
    loop.failed(proposal.number, "killed")
    [evaluation] = opened(tmp_path).evaluations()
    assert (evaluation.status, evaluation.job.name) == ("failed", JOBS[1].name)
    assert replace(evaluation, origin=None).born == "trained"
