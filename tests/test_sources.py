"""What a search relies on in every source of trainings, as in every sampler (tests/test_samplers.py)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from test_controls import SHAPE
from test_cutting import Weights, drawn, trained
from test_study import OBJECTIVES

from autopeft.budget import Budget
from autopeft.candidate import Evaluation, Job, Status
from autopeft.engine.settings import TrainingSettings
from autopeft.searching.controls import Controls, controls_of, trainings_of
from autopeft.searching.descent import Descent, DescentSettings
from autopeft.searching.sources import Source
from autopeft.space import SearchSpace

RAW: dict[str, Any] = {
    "blocks": {"lora": {"rank": [0, 2, 4, 8]}, "parallel": {"bottleneck": [0, 4, 8]}},
    "training": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
}
SPACE = SearchSpace.load(RAW, SHAPE)
BUDGET = Budget({"trainable_params": 20_000})
TRAINING = TrainingSettings(head="drawn", epochs=3)
TRIALS = 40


def controls() -> Source:
    found = controls_of(("head", "lora", "pfeiffer"), SHAPE)
    rates = partial(trainings_of, SPACE, TRAINING.learning_rate)
    return Controls(found, rates, lambda h: h.num_params(SHAPE), lambda h: BUDGET.fits(h, SHAPE), TRIALS)


def descent() -> Source:
    """Its trainings leave weights and importances that depend on their names only."""
    hybrids = {}

    def units(name: str) -> tuple[Weights, Weights] | None:
        hybrid = hybrids.get(name)
        return None if hybrid is None else (trained(hybrid, SHAPE), drawn(hybrid, SHAPE, zlib.crc32(name.encode())))

    class Watched(Descent):
        def next(self, ended: Sequence[Evaluation], running: Sequence[Job], most: int) -> list[Job] | None:
            hybrids.update({TRAINING.weights_name(e.job): e.candidate.hybrid for e in ended})
            return super().next(ended, running, most)

    def keep(name: str, weights: dict[str, torch.Tensor]) -> None:
        assert weights, name

    return Watched(SPACE, BUDGET, OBJECTIVES[0], TRAINING, DescentSettings(), units, keep, trials=TRIALS)


SOURCES: dict[str, Callable[[], Source]] = {"controls": controls, "descent": descent}
ALL = pytest.mark.parametrize("name", SOURCES)


def told(job: Job, status: Status = "done") -> Evaluation:
    """A score that depends on the name only."""
    metrics = {"accuracy": zlib.crc32(repr(job.name).encode()) / 2**32}
    return Evaluation(job.candidate, status, metrics, epochs=job.epochs, origin=job.origin, role=job.role)


def run(source: Source, pack: int = 3, ended: Sequence[Evaluation] = (), failing: Sequence[int] = ()) -> list[Job]:
    """Ask and tell until it has no more; all jobs, those of `ended` too."""
    known = list(ended)
    while (jobs := source.next(known, [], pack)) is not None:
        assert 0 < len(jobs) <= pack, "nothing is running, so there is nothing to wait for"
        assert len(known) < TRIALS
        known += [told(job, "failed" if len(known) + i in failing else "done") for i, job in enumerate(jobs)]
    return [e.job for e in known]


def names(jobs: Sequence[Job]) -> list[Any]:
    return [job.name for job in jobs]


@ALL
def test_jobs_are_within_the_budget_and_new(name: str) -> None:
    jobs = run(SOURCES[name]())
    assert len(jobs) > 5
    assert all(BUDGET.fits(job.candidate.hybrid, SHAPE) for job in jobs)
    assert len(set(names(jobs))) == len(jobs)
    assert all(job.role for job in jobs), "a search says what each of its candidates is"
    for job in jobs:
        assert 1e-4 <= job.candidate.training["learning_rate"] < 0.2


@ALL
@pytest.mark.parametrize("pack", [1, 2, 8])
def test_the_size_of_packs_changes_no_job(name: str, pack: int) -> None:
    assert sorted(map(repr, names(run(SOURCES[name](), pack)))) == sorted(map(repr, names(run(SOURCES[name](), 3))))


@ALL
def test_a_fresh_one_goes_on_as_the_undisturbed_one(name: str) -> None:
    whole = run(SOURCES[name](), pack=2)
    for after in range(0, len(whole), 3):
        first = [told(job) for job in whole[:after]]
        assert names(run(SOURCES[name](), 2, first)) == names(whole)


@ALL
def test_what_runs_is_not_given_again(name: str) -> None:
    source, ended, running = SOURCES[name](), list[Evaluation](), list[Job]()
    for _ in range(100):
        jobs = source.next(ended, running, 2)
        known = names([*(e.job for e in ended), *running])
        assert not set(names(jobs or [])) & set(known)
        running += jobs or []
        if not running:
            break
        # The last that was begun ends first: with several workers nothing ends in order.
        ended.append(told(running.pop()))
    assert len(set(names([e.job for e in ended]))) == len(ended) > 5


@ALL
def test_failed_trainings_are_survived_and_not_given_again(name: str) -> None:
    jobs = run(SOURCES[name](), failing=(0, 3, 5))
    assert len(set(names(jobs))) == len(jobs) > 5
    first = SOURCES[name]().next([], [], 3)
    assert first is not None
    assert names(run(SOURCES[name](), failing=range(TRIALS)))[: len(first)] == names(first)


@ALL
def test_what_it_needs_has_ended(name: str) -> None:
    source, known = SOURCES[name](), list[Evaluation]()
    while (jobs := source.next(known, [], 4)) is not None:
        known += [told(job) for job in jobs]
        assert set(source.needs(known)) <= {e.key for e in known}
