"""The sampler `known_cost`, part by part: improvement, costs, surrogate, design, search."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.anatomy import ModelShape
from autopeft.budget import Budget, costs_of
from autopeft.costs import COSTS
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.searching.budgeted import BudgetedSampler
from autopeft.searching.dominance import hypervolume
from autopeft.searching.known_cost import design
from autopeft.searching.known_cost.improvement import Staircase, expected_improvement
from autopeft.searching.known_cost.points import Points
from autopeft.searching.known_cost.proposal import Effort, maximise
from autopeft.searching.known_cost.surrogate import Data, Surrogate
from autopeft.searching.problem import Prior
from autopeft.space import SearchSpace

SITES = dict.fromkeys("qkvo", (64, 64)) | {"up": (64, 256), "down": (256, 64)}
TINY = ModelShape("bert", 3, 64, 256, 2, 2, 32, SITES, 100_000)
BLOCKS = {
    "lora": {"rank": [0, 2, 4, 8]},
    "prefix": {"length": [0, 1, 4]},
    "sequential": {"bottleneck": [0, 2, 8]},
}
RATES = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "weight_decay": {"choices": [0.01, 0.1]}}
PER_LAYER = SearchSpace.load({"blocks": BLOCKS, "training": RATES}, TINY)
SHARED = SearchSpace.load({"blocks": BLOCKS, "training": RATES, "sizes": "shared"}, TINY)
SPACES = pytest.mark.parametrize("space", [PER_LAYER, SHARED], ids=["per_layer", "shared"])
BUDGET = Budget({"trainable_params": 3000})


def rows_of(space: SearchSpace, points: Points, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([points.row(space.random_point(rng)) for _ in range(count)])


# Improvement.


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2), st.integers(0, 7), st.integers(0, 10_000))
def test_improvement_is_what_monte_carlo_says(costs: int, members: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, scores = rng.random((members, costs)), rng.normal(size=members)
    candidate, mean, sd = rng.random((1, costs)), rng.normal(size=1), 0.1 + rng.random(1)
    exact = Staircase(known, scores, floor=-2.0).improvement(candidate, mean, sd)[0]
    draws = (mean + sd * rng.normal(size=(1500, 1)))[:, 0]

    def volume(extra: list[list[float]]) -> float:
        rows = [[*c, -s] for c, s in zip(known, scores, strict=True)] + extra
        return hypervolume(rows, [*[1.0] * costs, 2.0]) if rows else 0.0

    gains = [volume([[*candidate[0], -value]]) - volume([]) for value in draws]
    assert exact == pytest.approx(np.mean(gains), abs=5 * np.std(gains) / math.sqrt(len(gains)) + 1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_improvement_is_botorchs_where_its_model_knows_the_cost(seed: int) -> None:
    """BoTorch's analytic improvement (Yang et al. 2019) of two modelled objectives, one with no variance left."""
    from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
    from botorch.posteriors import GPyTorchPosterior
    from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
    from gpytorch.distributions import MultitaskMultivariateNormal

    rng = np.random.default_rng(seed)
    costs, scores = rng.random((5, 1)), rng.normal(size=5)
    cost, mean, sd = float(rng.random()), float(rng.normal()), 0.1 + float(rng.random())

    class Known:
        num_outputs = 2

        def posterior(self, x: Any, **_: Any) -> Any:
            moments = torch.tensor([[mean, -cost]], dtype=torch.double)
            covariance = torch.diag(torch.tensor([sd**2, 1e-16], dtype=torch.double))
            return GPyTorchPosterior(MultitaskMultivariateNormal(moments, covariance))

    corner = torch.tensor([-2.0, -1.0], dtype=torch.double)
    front = torch.from_numpy(np.column_stack([scores, -costs[:, 0]]))
    theirs = ExpectedHypervolumeImprovement(
        model=Known(),  # type: ignore[arg-type]
        ref_point=corner,
        partitioning=FastNondominatedPartitioning(corner, front),
    )
    ours = Staircase(costs, scores, -2.0).improvement(np.array([[cost]]), np.array([mean]), np.array([sd]))
    assert ours[0] == pytest.approx(float(theirs(torch.zeros(1, 1, dtype=torch.double))), rel=1e-5, abs=1e-9)


def test_improvement_at_no_uncertainty_is_the_gain_itself() -> None:
    stairs = Staircase(np.array([[0.2], [0.6]]), np.array([0.5, 0.8]), 0.0)
    gain = stairs.improvement(np.array([[0.4], [0.4], [0.7]]), np.array([0.9, 0.4, 0.7]), np.zeros(3))
    assert gain == pytest.approx([0.2 * 0.4 + 0.4 * 0.1, 0, 0], abs=1e-9)
    assert stairs.best(np.array([[0.1], [0.2], [0.59], [1.0]])) == pytest.approx([0.0, 0.5, 0.5, 0.8])


def test_a_score_that_is_not_a_number_stands_nowhere() -> None:
    broken = Staircase(np.array([[0.1], [0.5]]), np.array([math.nan, 1.0]), 0.0)
    assert broken.best(np.array([[0.3]])) == pytest.approx([0.0])


def test_expected_improvement_grows_with_mean_and_uncertainty() -> None:
    assert expected_improvement(np.array(0.0), np.array(1.0), np.array(0.0)) == pytest.approx(
        1 / math.sqrt(2 * math.pi)
    )
    grid = expected_improvement(np.array([[0.0], [0.5]]), np.array([[0.1, 0.5]]), np.array(1.0))
    assert (np.diff(grid, axis=0) > 0).all()
    assert (np.diff(grid, axis=1) > 0).all()


# Points and costs.


@SPACES
@pytest.mark.parametrize("name", COSTS.names())
def test_costs_of_rows_are_those_of_their_hybrids(space: SearchSpace, name: str) -> None:
    points = Points(space, BUDGET, [name])
    rows = rows_of(space, points, 40)
    exact = [costs_of(space.hybrid(points.point(row)), TINY, BUDGET.length, [name])[name] for row in rows]
    assert points.costs(rows)[:, 0].tolist() == exact


@pytest.mark.parametrize("name", COSTS.names())
def test_costs_that_say_that_they_are_sums_are(name: str) -> None:
    cost = COSTS.get(name)()
    rng = np.random.default_rng(0)
    hybrids = [PER_LAYER.hybrid(PER_LAYER.random_point(rng)) for _ in range(30)]
    empty = cost.of(Hybrid(((),) * 3), TINY, 32)
    alone = [
        empty + sum(cost.of(_only(h, i, m), TINY, 32) - empty for i, ms in enumerate(h.layers) for m in ms)
        for h in hybrids
    ]
    assert ([cost.of(h, TINY, 32) for h in hybrids] == alone) == cost.additive


def _only(hybrid: Hybrid, layer: int, method: Any) -> Hybrid:
    return Hybrid(tuple((method,) if i == layer else () for i in range(len(hybrid.layers))))


@SPACES
def test_rows_and_points_are_the_same(space: SearchSpace) -> None:
    points = Points(space, BUDGET)
    for row in rows_of(space, points, 10):
        point = points.point(row)
        space.check(point)
        assert (points.row(point) == row).all()


@SPACES
def test_fitting_rows_are_those_that_the_budget_says(space: SearchSpace) -> None:
    points = Points(space, BUDGET)
    rows = rows_of(space, points, 60)
    said = [BUDGET.fits(space.hybrid(points.point(row)), TINY) for row in rows]
    assert points.fit(rows).tolist() == said
    assert any(said)
    assert not all(said)


@SPACES
def test_lowered_rows_fit_their_shares_and_rise_nowhere(space: SearchSpace) -> None:
    points, rng = Points(space, BUDGET, ["trainable_params"]), np.random.default_rng(0)
    rows, shares = rows_of(space, points, 60), rng.random(60)
    lowered = points.lowered(rows, shares, rng)
    assert (lowered <= rows).all()
    assert (points.costs(lowered)[:, 0] <= np.ceil(shares * 3000)).all()
    assert (lowered[:, ~points.structure] == rows[:, ~points.structure]).all()


@SPACES
def test_features_are_on_unit_scales_and_tell_hybrids_apart(space: SearchSpace) -> None:
    points = Points(space, BUDGET)
    rows = rows_of(space, points, 200)
    features = points.features(rows)
    blocks, layers, training = points.shape
    assert features.shape == (200, blocks * layers + training)
    assert features.min() >= 0
    assert features.max() <= 1
    by_features = {f.tobytes() for f in features[:, : blocks * layers]}
    assert len(by_features) == len({space.hybrid(points.point(row)) for row in rows})


def test_the_extent_of_a_cost_is_from_the_least_method_to_the_budget() -> None:
    points = Points(PER_LAYER, BUDGET, ["trainable_params", "inference_flops"])
    assert points.extent[0].tolist() == [128, 3000]
    # Without a limit: to the largest hybrid of the space.
    assert points.extent[1, 1] > points.extent[1, 0] > 0


# The surrogate.


def data(count: int = 30, seed: int = 0) -> Data:
    points = Points(PER_LAYER, BUDGET)
    rows = rows_of(PER_LAYER, points, count, seed)
    features = points.features(rows)
    noise = np.random.default_rng(seed + 1).normal(0, 0.02, count)
    return Data(features, features[:, :3].sum(1) - (features[:, -2] - 0.5) ** 2 + noise, np.zeros(count), points.shape)


def test_the_posterior_is_botorchs() -> None:
    known, other = data(), data(seed=5)
    surrogate = Surrogate(known)
    mean, sd = surrogate.posterior(other.features)
    with torch.no_grad():
        theirs = surrogate._model.posterior(torch.from_numpy(other.features))
    scale, center = surrogate._scale, surrogate._center
    assert mean == pytest.approx(theirs.mean[:, 0].numpy() * scale + center, abs=1e-8)
    assert sd == pytest.approx(theirs.variance[:, 0].sqrt().numpy() * scale, abs=1e-6)


def test_it_learns() -> None:
    known, other = data(60), data(60, seed=9)
    mean, _ = Surrogate(known).posterior(other.features)
    assert np.corrcoef(mean, other.scores)[0, 1] > 0.9


def test_a_kept_fit_gives_the_same_again() -> None:
    known = data()
    first = Surrogate(known)
    again = Surrogate(known, first.fitted, steps=0)
    assert again.posterior(known.features)[0].tolist() == first.posterior(known.features)[0].tolist()


def test_what_is_pending_takes_uncertainty_away_and_changes_no_mean() -> None:
    known, other = data(), data(3, seed=7)
    before, after = Surrogate(known), Surrogate(known).with_pending(other.features)
    grid = data(20, seed=11).features
    assert after.posterior(grid)[0] == pytest.approx(before.posterior(grid)[0], abs=1e-4)
    assert (after.posterior(other.features)[1] < 0.9 * before.posterior(other.features)[1]).all()


def test_an_uncertain_observation_counts_less() -> None:
    known = data()
    lifted = Data(known.features, known.scores + np.eye(30)[0] * 3, np.zeros(30), known.shape)
    doubted = Data(lifted.features, lifted.scores, np.eye(30)[0] * 100, known.shape)
    fit = Surrogate(known).fitted
    surely, hardly = (Surrogate(d, fit, steps=0).posterior(known.features[:1])[0][0] for d in (lifted, doubted))
    assert surely - known.scores[0] > 5 * abs(hardly - known.scores[0])


# The start.


def test_the_start_is_within_the_budget_and_spread_over_the_cost_axis() -> None:
    for space, seed in product((PER_LAYER, SHARED), range(3)):
        budget = Budget({"trainable_params": 8000})
        start = design.start(space, budget, 16, seed)
        costs = [space.hybrid(point).num_params(TINY) for point in start]
        assert len(start) == 16
        assert all(0 < cost <= 8000 for cost in costs)
        counts, _ = np.histogram(np.log(costs), bins=3, range=(math.log(128), math.log(8001)))
        assert min(counts) >= 2


def test_the_start_begins_with_what_people_use() -> None:
    start = design.manual(PER_LAYER, Budget({"trainable_params": 8000}))
    kinds = [{m.name for methods in PER_LAYER.hybrid(p).layers for m in methods} for p in start]
    assert kinds == [{"lora"}, {"sequential"}, {"prefix"}, {"prefix", "lora", "sequential"}]
    sizes = [m.size_value for methods in PER_LAYER.hybrid(start[0]).layers for m in methods]
    assert len(sizes) == 3
    assert len(set(sizes)) == 1


def test_a_small_budget_leaves_the_upper_layers() -> None:
    hybrid = PER_LAYER.hybrid(design.manual(PER_LAYER, Budget({"trainable_params": 1200}))[0])
    assert [bool(methods) for methods in hybrid.layers] == [False, True, True]


def test_learning_rates_of_the_start_cover_their_range() -> None:
    rates = sorted(point["learning_rate"] for point in design.start(PER_LAYER, BUDGET, 12, 0))
    assert rates[0] < 3e-4
    assert rates[-1] > 3e-3


# The search for the largest improvement.


@SPACES
def test_the_found_row_is_new_within_the_budget_and_good(space: SearchSpace) -> None:
    points, rng = Points(space, BUDGET, ["trainable_params"]), np.random.default_rng(0)
    known = rows_of(space, points, 20)
    known = known[points.fit(known)]

    def gain(rows: np.ndarray) -> np.ndarray:
        return points.features(rows).sum(1)

    found = maximise(gain, points, known, known[:2], rng, Effort())
    assert found is not None
    assert points.fit(found[None]).all()
    assert not (known == found).all(axis=1).any()
    random = points.lowered(rows_of(space, points, 500, 3), np.ones(500), rng)
    assert gain(found[None])[0] >= np.quantile(gain(random), 0.99)


def test_of_a_space_without_anything_new_nothing_is_found() -> None:
    small = SearchSpace.load({"blocks": {"lora": {"rank": [0, 2]}}}, TINY)
    points = Points(small, BUDGET)
    everything = np.array(list(product((0.0, 1.0), repeat=3)))
    rng = np.random.default_rng(0)
    assert maximise(lambda rows: rows.sum(1), points, everything, everything[:1], rng, Effort()) is None
    left = maximise(lambda rows: rows.sum(1), points, everything[:-1], everything[:1], rng, Effort())
    assert left is not None
    assert left.tolist() == [1, 1, 1]


# The sampler in a study.


def score(point: dict[str, Any]) -> float:
    hybrid = PER_LAYER.hybrid(point)
    sizes = [m.size_value for methods in hybrid.layers for m in methods]
    return sum(s / (s + 2) for s in sizes) - abs(math.log(point["learning_rate"] / 1e-3)) * 0.3


def search(objectives: tuple[str, ...], directions: list[str], trials: int = 20, **options: Any) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    prior = options.pop("prior", None)
    sampler = BudgetedSampler.for_space(
        PER_LAYER, BUDGET, {"name": "known_cost", "startup": 8, **options}, objectives=objectives, prior=prior
    )
    study = optuna.create_study(sampler=sampler, directions=directions)
    for _ in range(trials):
        trial = study.ask()
        PER_LAYER.suggest(trial)
        costs = costs_of(PER_LAYER.hybrid(trial.params), TINY, BUDGET.length)
        value = score(trial.params)
        values = {"score": value, "badness": -value, **costs}
        study.tell(trial, [values[name] for name in objectives])
    return study


@pytest.mark.parametrize(
    ("objectives", "directions"),
    [
        (("score",), ["maximize"]),
        (("score", "trainable_params"), ["maximize", "minimize"]),
        (("badness", "trainable_params"), ["minimize", "minimize"]),
        (("trainable_params", "score", "training_flops"), ["minimize", "maximize", "minimize"]),
    ],
)
@pytest.mark.parametrize("axis", ["log", "linear"])
def test_any_number_of_known_costs(objectives: tuple[str, ...], directions: list[str], axis: str) -> None:
    study = search(objectives, directions, axis=axis)
    losses = [[-v if d == "maximize" else v for v, d in zip(t.values, directions, strict=True)] for t in study.trials]
    corner = np.max(losses, axis=0) + 1e-9
    assert hypervolume(losses, corner) > 1.05 * hypervolume(losses[:8], corner)
    assert len({tuple(t.params.values()) for t in study.trials}) == 20


def test_two_scores_are_refused() -> None:
    with pytest.raises(AutopeftError, match="exactly one score among the objectives, there are 2"):
        BudgetedSampler.for_space(PER_LAYER, BUDGET, "known_cost", objectives=("accuracy", "f1"))


def test_more_directions_than_objectives_are_refused() -> None:
    sampler = BudgetedSampler.for_space(PER_LAYER, BUDGET, "known_cost", objectives=("score",))
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    with pytest.raises(AutopeftError, match="2 directions, and 1 objectives"):
        PER_LAYER.suggest(study.ask())


def test_a_prior_comes_first_and_its_surrogate_helps() -> None:
    """The other task is the same one: with its candidates known, the first model-based proposal is good already."""
    other = search(("score", "trainable_params"), ["maximize", "minimize"], trials=30)
    best = max(other.trials, key=lambda t: t.values[0])
    prior = Prior([t.params for t in other.trials], [t.values[0] for t in other.trials], [best.params])
    warm = search(("score", "trainable_params"), ["maximize", "minimize"], trials=12, prior=prior)
    assert warm.trials[0].params == best.params
    cold = search(("score", "trainable_params"), ["maximize", "minimize"], trials=12)
    assert warm.trials[0].values[0] >= max(t.values[0] for t in cold.trials[:8])


def test_fits_are_kept_with_the_trials_and_renewed() -> None:
    study = search(("score", "trainable_params"), ["maximize", "minimize"], trials=20)
    fits = [
        t.system_attrs["known_cost:fit"]["observations"] for t in study.trials if "known_cost:fit" in t.system_attrs
    ]
    assert fits[0] == 8
    assert fits == sorted(fits)
    assert 2 <= len(fits) < 12
