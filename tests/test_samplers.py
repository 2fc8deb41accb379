"""Every sampler plug-in, inside the budget: what the search relies on."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import optuna
import pytest

from autopeft.anatomy import ModelShape
from autopeft.budget import Budget
from autopeft.candidate import Candidate
from autopeft.errors import AutopeftError
from autopeft.searching.budgeted import BudgetedSampler
from autopeft.searching.objective import Objective
from autopeft.searching.problem import Problem
from autopeft.searching.samplers import SAMPLERS, SamplerPlugin, sampler_from
from autopeft.space import SearchSpace

SITES = dict.fromkeys("qkvo", (64, 64)) | {"up": (64, 256), "down": (256, 64)}
TINY = ModelShape("bert", 2, 64, 256, 2, 2, 32, SITES, 100_000)
RAW = {
    "blocks": {"lora": {"rank": [0, 2, 4, 8]}, "prefix": {"length": [0, 1, 4]}},
    "training": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
}
SPACE = SearchSpace.load(RAW, TINY)
BUDGET = Budget({"trainable_params": 1500})


def problem() -> Problem:
    """A fresh one each time: what a sampler keeps in it must not matter."""
    return Problem(SPACE, BUDGET, (Objective.of("accuracy"), Objective.of("trainable_params")))


#: Most of them are over the budget, so the seed shows in how they are repaired.
POINTS = [SPACE.random_point(np.random.default_rng(i)) for i in range(9)]
SMALL: dict[str, dict[str, Any]] = {
    "known_cost": {"startup": 3},
    "tpe": {"startup": 3},
    "gp": {"startup": 3},
    "nsga2": {"population": 3},
    "given": {"points": POINTS},
}
ALL = pytest.mark.parametrize("name", SAMPLERS.names())


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def score(candidate: Candidate) -> float:
    """A closed form with one optimum: more methods help, with falling returns; one learning rate is best."""
    sizes = [m.size_value for methods in candidate.hybrid.layers for m in methods]
    return sum(s / (s + 2) for s in sizes) - abs(candidate.training["learning_rate"] - 1e-3) * 100


def plugin(name: str, **options: Any) -> SamplerPlugin:
    return sampler_from({"name": name, **SMALL.get(name, {}), **options})


def study_of(name: str, seed: int = 0, single: bool = False, storage: Any = None) -> optuna.Study:
    sampler = BudgetedSampler(problem(), plugin(name, seed=seed))
    directions = ["maximize"] if single else ["maximize", "minimize"]
    return optuna.create_study(sampler=sampler, directions=directions, storage=storage, load_if_exists=True)


def run(study: optuna.Study, trials: int, failing: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Ask and tell; the proposed parameters."""
    points = []
    for _ in range(trials):
        trial = study.ask()
        candidate = SPACE.suggest(trial)
        points.append(trial.params)
        if trial.number in failing:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            values = [score(candidate), candidate.hybrid.num_params(TINY)]
            study.tell(trial, values[: len(study.directions)])
    return points


@ALL
def test_proposals_are_in_the_space_within_the_budget_and_new(name: str) -> None:
    study = study_of(name)
    points = run(study, 9)
    candidates = [SPACE.decode(point) for point in points]
    assert all(BUDGET.fits(c.hybrid, TINY) for c in candidates)
    assert len({c.key for c in candidates}) == 9
    assert [t.user_attrs["key"] for t in study.trials] == [c.key for c in candidates]
    # What looks for points within the budget needs no repair.
    assert any(t.user_attrs["repaired"] for t in study.trials) == (name != "known_cost")


@ALL
def test_a_fresh_object_with_the_same_seed_proposes_the_same(name: str) -> None:
    first = run(study_of(name), 7)
    assert run(study_of(name), 7) == first
    assert run(study_of(name, seed=1), 2) != first[:2]


@ALL
def test_failed_trials_are_survived_and_not_proposed_again(name: str) -> None:
    study = study_of(name)
    run(study, 8, failing=(0, 1, 4, 6))
    assert len({t.user_attrs["key"] for t in study.trials}) == 8


@ALL
def test_running_trials_are_not_proposed_again(name: str) -> None:
    study = study_of(name)
    run(study, 5)
    open_ones = [SPACE.suggest(study.ask()).key for _ in range(3)]
    assert len({*open_ones, *(t.user_attrs["key"] for t in study.trials[:5])}) == 8


@ALL
def test_a_resumed_study_goes_on_as_the_undisturbed_one(name: str) -> None:
    whole = run(study_of(name), 7)
    storage = optuna.storages.InMemoryStorage()
    study = study_of(name, storage=storage)
    halves = run(study, 4)
    resumed = optuna.load_study(
        study_name=study.study_name, storage=storage, sampler=BudgetedSampler(problem(), plugin(name))
    )
    assert halves + run(resumed, 3) == whole


@ALL
def test_one_objective(name: str) -> None:
    points = run(study_of(name, single=True), 6)
    assert all(BUDGET.fits(SPACE.decode(p).hybrid, TINY) for p in points)


def test_all_plug_ins_describe_themselves() -> None:
    for kind in SAMPLERS.all().values():
        assert kind.description


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_every_candidate_once_until_there_are_no_more(name: str) -> None:
    """A space of 8 candidates is seen whole; then proposals repeat, and the search does not hang."""
    small = SearchSpace.load({"blocks": {"lora": {"rank": [0, 2]}, "prefix": {"length": [0, 1]}}}, TINY)
    budget = Budget({"trainable_params": small.hybrid({d.name: 1 for d in small.dimensions}).num_params(TINY)})
    study = optuna.create_study(sampler=BudgetedSampler.for_space(small, budget, name), direction="maximize")
    keys = []
    for _ in range(small.size + 2):
        trial = study.ask()
        keys.append(small.suggest(trial).key)
        study.tell(trial, 0.0)
    assert len(set(keys)) == small.size


def test_proposals_are_spread_over_the_budget_when_there_are_several_objectives() -> None:
    budget = Budget({"trainable_params": 2000})
    for directions, cheap in ((["maximize", "minimize"], True), (["maximize"], False)):
        study = optuna.create_study(sampler=BudgetedSampler.for_space(SPACE, budget, "random"), directions=directions)
        costs = sorted(SPACE.suggest(study.ask()).hybrid.num_params(TINY) for _ in range(30))
        assert costs[-1] > 1200
        assert (costs[5] < 600) == cheap


def test_in_ones_own_study_with_a_parameter_of_ones_own() -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        candidate = SPACE.suggest(trial)
        dropout = trial.suggest_float("dropout", 0, 0.5)
        return score(candidate) - dropout, candidate.hybrid.num_params(TINY)

    sampler = BudgetedSampler.for_space(SPACE, BUDGET, {"name": "tpe", "startup": 3}, seed=4)
    study = optuna.create_study(sampler=pickle.loads(pickle.dumps(sampler)), directions=["maximize", "minimize"])
    study.optimize(objective, n_trials=6)
    assert all(BUDGET.fits(SPACE.hybrid(t.params), TINY) for t in study.trials)


def test_what_is_enqueued_goes_first_and_is_known() -> None:
    small = SearchSpace.load({"blocks": {"lora": {"rank": [0, 2]}}}, TINY)
    study = optuna.create_study(sampler=BudgetedSampler.for_space(small, Budget(), "random"))
    study.enqueue_trial({"L00.lora.rank": 1, "L01.lora.rank": 1})
    study.enqueue_trial({"L00.lora.rank": 0})
    seen = [small.suggest(study.ask()) for _ in range(4)]
    assert seen[0].hybrid.describe() == "lora 2 q,v in 0-1"
    assert not seen[1].hybrid.layers[0]
    assert study.trials[1].user_attrs["key"] == seen[1].key
    assert len({c.key for c in seen}) == 4


def test_tpe_finds_better_ones_than_random() -> None:
    best = {
        name: max(score(SPACE.decode(p)) for p in run(study_of(name, single=True), 40)) for name in ("random", "tpe")
    }
    assert best["tpe"] >= best["random"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tpee", "sampler: unknown sampler 'tpee'; did you mean 'tpe'"),
        ({"name": None, "startup": 3}, "sampler: expected a name"),
        ({"name": "tpe", "start": 3}, "sampler: start: unknown key; did you mean 'startup'"),
        ({"name": "nsga2", "population": 1}, "sampler: population: "),
        ({"name": "random", "seed": -1}, "sampler: seed: "),
        (3, "sampler: expected a name"),
    ],
)
def test_wrong_configurations(spec: Any, message: str) -> None:
    with pytest.raises(AutopeftError) as error:
        sampler_from(spec)
    assert message in str(error.value)


def test_a_budget_that_fits_nothing_is_refused() -> None:
    with pytest.raises(AutopeftError, match="nothing in the space fits"):
        BudgetedSampler.for_space(SPACE, Budget({"trainable_params": 10}))


@ALL
def test_own_parameters_are_drawn_apart(name: str) -> None:
    study = study_of(name)
    trial = study.ask()
    SPACE.suggest(trial)
    assert trial.suggest_float("dropout", 0, 1) != trial.suggest_float("noise", 0, 1)
