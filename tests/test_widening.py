"""Which candidates count as new, and how ranges grow; nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from test_study import OBJECTIVES, TINY, evaluated

from autopeft.budget import Budget
from autopeft.candidate import Candidate, Evaluation, Job, Origin
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.searching.budgeted import BudgetedSampler
from autopeft.searching.loop import Listener, SearchLoop
from autopeft.searching.proposed import Proposed
from autopeft.searching.repeats import EMPTY, FACTOR
from autopeft.searching.samplers import SAMPLERS
from autopeft.searching.study import Proposal, Study
from autopeft.searching.warm_start import prior_of
from autopeft.space import SearchSpace

BLOCKS = {"lora": {"rank": [0, 2, 4]}}
#: Three of these rates are further apart than `FACTOR`.
NARROW = {"low": 1e-3, "high": 3e-3, "log": True}
RANGE = {"low": 1e-4, "high": 1e-3, "log": True}
BUDGET = Budget({"trainable_params": 3000})
STARTUP = {"known_cost": {"startup": 3}, "tpe": {"startup": 3}, "gp": {"startup": 3}, "nsga2": {"population": 3}}


def space_of(rate: dict[str, Any], blocks: Any = BLOCKS) -> SearchSpace:
    return SearchSpace.load({"blocks": blocks, "training": {"learning_rate": rate}}, TINY)


def opened(run: Path, rate: dict[str, Any], name: str = "random", **changes: Any) -> Study:
    sampler = {"name": name, **STARTUP.get(name, {})}
    return Study.open(run, space_of(rate), BUDGET, OBJECTIVES, sampler, **changes)


# Repeats.


@pytest.mark.parametrize("name", [n for n in SAMPLERS.names() if n != "given"])
def test_a_hybrid_comes_again_only_at_a_rate_that_differs(name: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = SearchSpace.load(
        {"blocks": {"lora": {"rank": [0, 2], "sites": ["q"]}}, "training": {"learning_rate": NARROW}}, TINY
    )
    sampler = BudgetedSampler.for_space(space, BUDGET, {"name": name, **STARTUP.get(name, {})})
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    rates: dict[Hybrid, list[float]] = {}
    for _ in range(9):
        trial = study.ask()
        candidate = space.suggest(trial)
        # The empty hybrid is the best by far, at the highest rate.
        study.tell(
            trial,
            [
                trial.params["learning_rate"] * (9 if candidate.hybrid.is_empty else 1),
                candidate.hybrid.num_params(TINY),
            ],
        )
        if "repeat" not in study.trials[-1].user_attrs:
            rates.setdefault(candidate.hybrid, []).append(trial.params["learning_rate"])
    assert sum(map(len, rates.values())) >= 7
    for tried in rates.values():
        assert all(b / a >= FACTOR for a, b in zip(sorted(tried), sorted(tried)[1:], strict=False))


def test_the_empty_hybrid_is_trained_at_a_few_rates(tmp_path: Path) -> None:
    study = opened(tmp_path, {"low": 1e-4, "high": 1e-1, "log": True})
    for rate in (1e-4, 1e-3, 1e-2):
        proposal = study.propose(Job(Candidate(Hybrid.uniform(2), {"learning_rate": rate})))
        study.tell(evaluated(proposal))
    asked = [study.ask() for _ in range(12)]
    assert not any(proposal.candidate.hybrid.is_empty for proposal in asked)
    assert EMPTY == 3


def test_where_all_is_known_the_search_ends(tmp_path: Path) -> None:
    only = SearchSpace.load(
        {"blocks": {"lora": {"rank": [0, 2]}}, "training": {"learning_rate": {"low": 1e-3, "high": 1.2e-3}}}, TINY
    )
    study = Study.open(tmp_path, only, Budget(), OBJECTIVES, "random")
    loop = SearchLoop(study, lambda hybrid: {"trainable_params": hybrid.num_params(TINY)}, trials=100)
    with pytest.warns(UserWarning, match="no new candidate"):
        pack = loop.next_pack(50)
    assert len({p.candidate.hybrid for p in pack}) == len(pack) == 4


def test_of_one_hybrid_every_rate_is_another_candidate(tmp_path: Path) -> None:
    preset = space_of(NARROW, {"lora": {"rank": [2]}})
    study = Study.open(tmp_path, preset, Budget(), OBJECTIVES, "random")
    assert not any(study.ask().repeat for _ in range(12))


@pytest.mark.parametrize("origin", [Origin("parent", "start"), None])
def test_a_healed_hybrid_may_be_trained_from_the_beginning(origin: Origin | None, tmp_path: Path) -> None:
    study = opened(tmp_path, NARROW)
    candidate = Candidate(Hybrid.uniform(2, LoRA(2)), {"learning_rate": 2.1e-3})
    study.tell(evaluated(study.propose(Job(candidate, origin=origin))))
    trial = study._file.get_trial(study._study.ask()._trial_id)
    known = Proposed(study._study, trial, study._sampler.problem)
    point = {"L00.lora.rank": 1, "L01.lora.rank": 1}
    assert known.has({**point, "learning_rate": 2e-3}) is (origin is None)
    assert known.has({**point, "learning_rate": 2.1e-3})
    assert not known.has({**point, "learning_rate": 1.3e-3})


# Ranges.


def scored(proposal: Proposal) -> Evaluation:
    """The higher the rate, the better."""
    params = proposal.candidate.hybrid.num_params(TINY)
    accuracy = 0.5 + 0.1 * params / 3000 + 10 * proposal.candidate.training["learning_rate"]
    metrics, job = {"accuracy": accuracy, "trainable_params": params}, proposal.job
    return evaluated(proposal, metrics=metrics, origin=job.origin, epochs=job.epochs)


class Said(Listener):
    def __init__(self) -> None:
        self.words: list[str] = []

    def started(self, proposal: Proposal) -> None: ...

    def epoch(self, proposal: Proposal, metrics: Any) -> None: ...

    def finished(self, evaluation: Evaluation) -> None: ...

    def remarked(self, remarks: Any) -> None:
        self.words += remarks


def searched(study: Study, trials: int, stop: int | None = None) -> tuple[list[Evaluation], list[str]]:
    """A search in packs of three; what it has said."""
    said = Said()
    loop = SearchLoop(study, lambda h: {"trainable_params": h.num_params(TINY)}, [said], trials=stop or trials)
    while pack := loop.next_pack(3):
        for proposal in pack:
            loop.done({proposal.number: scored(proposal)})
    return study.evaluations(), said.words


def rates(evaluations: list[Evaluation]) -> list[float]:
    return [e.candidate.training["learning_rate"] for e in evaluations]


@pytest.mark.parametrize("name", ["known_cost", "tpe"])
def test_a_range_grows_where_the_best_sit_at_its_end(name: str, tmp_path: Path) -> None:
    study = opened(tmp_path / "run", RANGE, name)
    top = [
        Candidate(Hybrid.uniform(2, LoRA(rank)), {"learning_rate": 1e-3 * part})
        for rank in (1, 2, 3, 4)
        for part in (0.3, 1)
    ]
    for candidate in top:
        study.tell(scored(study.propose(Job(candidate))))
    evaluations, words = searched(study, 20)
    assert max(rates(evaluations)) > 1.01e-3
    assert max(rates(evaluations)) <= 9.001e-3
    assert words[0].startswith("the best candidates have learning_rate at an end of 0.0001 to 0.001: ")
    assert "from 0.0001 to 0.003 from now on" in words[0]
    assert len(words) == len(set(words)) <= 2
    assert any(study.widened() == pytest.approx({"widened.learning_rate.high": high}) for high in (3e-3, 9e-3))
    # Killed between two packs it goes on the same, and says nothing twice.
    again = opened(tmp_path / "again", RANGE, name)
    for candidate in top:
        again.tell(scored(again.propose(Job(candidate))))
    first = searched(again, 20, stop=14)[1]
    resumed, rest = searched(opened(tmp_path / "again", RANGE, name), 20)
    assert rates(resumed) == rates(evaluations)
    assert first + rest == words


def test_a_range_stays_where_the_space_says_so_or_began_without(tmp_path: Path) -> None:
    fixed = opened(tmp_path / "fixed", {**RANGE, "widen": False})
    assert max(rates(searched(fixed, 30)[0])) <= 1e-3
    assert fixed.widened() == {}
    with pytest.raises(AutopeftError, match=r"space.training.learning_rate.widen \(there: nothing, now: True\)"):
        opened(tmp_path / "fixed", {**RANGE, "widen": True})
    # Its header is that of a search from before there was any widening.
    begun = opened(tmp_path / "fixed", RANGE)
    assert max(rates(searched(begun, 36)[0])) <= 1e-3


@pytest.mark.parametrize("reason", ["healed", "failed", "neither"])
def test_what_fails_there_or_is_healed_widens_nothing(reason: str, tmp_path: Path) -> None:
    study = opened(tmp_path, RANGE)
    for rank in (1, 2, 3, 4, 5):
        for rate in (2e-4, 3e-4, 1e-3):
            origin = Origin("parent", "start") if reason == "healed" and rate == 1e-3 else None
            job = Job(Candidate(Hybrid.uniform(2, LoRA(rank)), {"learning_rate": rate}), origin=origin)
            evaluation = scored(study.propose(job))
            lost = reason == "failed" and rate == 1e-3 and rank > 2
            study.tell(replace(evaluation, status="failed", error="diverged") if lost else evaluation)
    assert bool(study.widens()) is (reason == "neither")


def test_another_search_may_widen_its_ranges_or_not(tmp_path: Path) -> None:
    study = opened(tmp_path, RANGE)
    searched(study, 30)
    assert max(rates(study.evaluations())) > 1e-3
    prior = prior_of(tmp_path, space_of(RANGE))
    assert any(point["learning_rate"] > 1e-3 for point in prior.front)
    warm = opened(tmp_path / "warm", RANGE, prior=prior)
    assert rates([scored(warm.ask()) for _ in prior.front]) == [point["learning_rate"] for point in prior.front]
    # What is only taken over is not widened, and not said to be.
    said = Said()
    SearchLoop(warm, lambda h: {"trainable_params": 1}, [said]).next_pack(1)
    assert (said.words, warm.widened()) == ([], {})
    inside = prior_of(tmp_path, space_of({**RANGE, "widen": False}))
    assert inside.points
    assert all(point["learning_rate"] <= 1e-3 for point in inside.points)
