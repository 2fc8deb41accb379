"""What a search relies on in every source of trainings, as in every sampler (tests/test_samplers.py)."""

from __future__ import annotations

import ast
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_controls import SHAPE
from test_cutting import Weights, drawn, trained
from test_study import OBJECTIVES

import autopeft
from autopeft.budget import Budget
from autopeft.candidate import Evaluation, Job, Status
from autopeft.engine.settings import TrainingSettings
from autopeft.searching.controls import ControlSettings, control_source
from autopeft.searching.descent import Descent
from autopeft.searching.descent_settings import DescentSettings
from autopeft.searching.sources import Allowance, Source
from autopeft.space import SearchSpace

RAW: dict[str, Any] = {
    "blocks": {"lora": {"rank": [0, 2, 4, 8]}, "parallel": {"bottleneck": [0, 4, 8]}},
    "training": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
}
SPACE = SearchSpace.load(RAW, SHAPE)
BUDGET = Budget({"trainable_params": 20_000})
TRAINING = TrainingSettings(head="drawn", method_rates="shared", epochs=3)
TRIALS, SHARE = 40, 0.5


def controls(trials: int = TRIALS, space: SearchSpace = SPACE, budget: Budget = BUDGET) -> Source:
    settings = ControlSettings(names=("head", "lora", "pfeiffer"), share=SHARE)
    return control_source(
        settings,
        space,
        TRAINING,
        Allowance.of(SHARE, trials, None),
        lambda h: {"trainable_params": h.num_params(SHAPE)},
        "trainable_params",
        lambda h: budget.fits(h, SHAPE),
    )


def descent(trials: int = TRIALS, space: SearchSpace = SPACE, budget: Budget = BUDGET) -> Source:
    """Its trainings leave weights and importances that depend on their names only, as long as it needs them."""
    hybrids = {}

    def units(name: str) -> tuple[Weights, Weights] | None:
        hybrid = hybrids.get(name)
        return None if hybrid is None else (trained(hybrid, SHAPE), drawn(hybrid, SHAPE, zlib.crc32(name.encode())))

    class Watched(Descent):
        def next(self, ended: Sequence[Evaluation], running: Sequence[Job], most: int) -> list[Job] | None:
            needed = self.needs(ended)
            hybrids.clear()
            hybrids.update({TRAINING.weights_name(e.job): e.candidate.hybrid for e in ended if e.key in needed})
            return super().next(ended, running, most)

    def keep(name: str, weights: dict[str, torch.Tensor]) -> None:
        assert weights, name

    settings = DescentSettings(share=SHARE)
    return Watched(
        space, budget, OBJECTIVES[0], TRAINING, settings, units, keep, allowed=Allowance.of(SHARE, trials, None)
    )


#: Each takes the trials, the space and the budget of a search.
SOURCES: dict[str, Callable[..., Source]] = {"controls": controls, "descent": descent}
ALL = pytest.mark.parametrize("name", SOURCES)


def told(job: Job, status: Status = "done") -> Evaluation:
    """A score that depends on the name only."""
    metrics = {"accuracy": zlib.crc32(repr(job.name).encode()) / 2**32}
    return Evaluation(job.candidate, status, metrics, epochs=job.epochs, origin=job.origin, role=job.role)


def run(
    source: Source,
    pack: int = 3,
    ended: Sequence[Evaluation] = (),
    failing: Sequence[int] = (),
    status: Status = "failed",
) -> list[Job]:
    """Ask and tell until it has no more; all jobs, those of `ended` too."""
    known = list(ended)
    while (jobs := source.next(known, [], pack)) is not None:
        assert 0 < len(jobs) <= pack, "nothing is running, so there is nothing to wait for"
        assert len(known) < TRIALS
        known += [told(job, status if len(known) + i in failing else "done") for i, job in enumerate(jobs)]
        assert set(source.needs(known)) <= {e.key for e in known}
    # Whoever goes on with a search that has ended asks again.
    assert source.next(known, [], pack) is None
    return [e.job for e in known]


def names(jobs: Sequence[Job]) -> list[Any]:
    return [job.name for job in jobs]


def test_every_source_is_tried() -> None:
    """Whatever has the methods of a source is one, and must be in the list above."""
    found = set[str]()
    for path in Path(autopeft.__file__).parent.rglob("*.py"):
        if "def needs(" in (text := path.read_text()):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef) and _methods(node) >= {"next", "needs"}:
                    found.add(node.name)
    tried = {cls.__name__ for make in SOURCES.values() for cls in type(make()).mro()}
    # Whoever watches a search may enqueue at any time, so a desk has no end: see test_watching.py.
    assert found - {"Source", "Desk"} <= tried
    assert len(found) > 2


def _methods(node: ast.ClassDef) -> set[str]:
    return {each.name for each in node.body if isinstance(each, ast.FunctionDef)}


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
def test_a_fresh_one_says_the_same_whatever_runs(name: str) -> None:
    """Killed with packs open, some of whose members other workers have ended."""
    source, ended, running, rng = SOURCES[name](), list[Evaluation](), list[Job](), random.Random(0)
    for _ in range(200):
        jobs, again = source.next(ended, running, 2), SOURCES[name]().next(ended, running, 2)
        assert (jobs is None) is (again is None)
        assert names(jobs or []) == names(again or [])
        running += jobs or []
        if not running:
            break
        for _ in range(rng.randint(0 if jobs else 1, len(running))):
            ended.append(told(running.pop(rng.randrange(len(running)))))
    assert not running
    assert len(ended) > 5


@ALL
@pytest.mark.parametrize("pack", [1, 8])
def test_it_takes_no_more_than_its_share(name: str, pack: int) -> None:
    counts = [len(run(SOURCES[name](trials=trials), pack)) for trials in range(1, 25)]
    assert all(count <= SHARE * trials for trials, count in enumerate(counts, 1))
    assert counts[-1] > counts[9] > 0


@ALL
def test_where_little_fits_it_ends(name: str) -> None:
    small = SearchSpace.load({"blocks": {"lora": {"rank": [0, 1]}}}, SHAPE)
    few = run(SOURCES[name](budget=Budget({"trainable_params": 200})))
    assert len(run(SOURCES[name](space=small))) < TRIALS
    assert len(few) < len(run(SOURCES[name]()))


@ALL
@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_what_fails_or_is_stopped_is_survived_and_not_given_again(name: str, status: Status) -> None:
    jobs = run(SOURCES[name](), failing=(0, 3, 5), status=status)
    assert len(set(names(jobs))) == len(jobs) > 5
    first = SOURCES[name]().next([], [], 3)
    assert first is not None
    assert names(run(SOURCES[name](), failing=range(TRIALS), status=status))[: len(first)] == names(first)
