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
from autopeft.candidate import Evaluation
from autopeft.costs import COSTS
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.searching.budgeted import BudgetedSampler
from autopeft.searching.dominance import hypervolume
from autopeft.searching.known_cost import design
from autopeft.searching.known_cost.improvement import Staircase, expected_improvement
from autopeft.searching.known_cost.observations import Observations
from autopeft.searching.known_cost.points import Points
from autopeft.searching.known_cost.proposal import Effort, maximise
from autopeft.searching.known_cost.surrogate import Data, Surrogate, spread_of
from autopeft.searching.known_cost.transfer import learned_elsewhere, trend_here
from autopeft.searching.objective import Objective
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


@SPACES
def test_features_are_what_the_hybrid_says(space: SearchSpace) -> None:
    points = Points(space, BUDGET)
    rows = rows_of(space, points, 40)
    for row, features in zip(rows, points.features(rows), strict=True):
        sizes = {(b, i): 0.0 for b in space.methods for i in range(3)}
        for layer, methods in enumerate(space.hybrid(points.point(row)).layers):
            for method in methods:
                size = getattr(method, next(iter(BLOCKS[method.name])))
                sizes[method.name, layer] = np.log2(1 + size)
        most = {b: np.log2(1 + max(next(iter(BLOCKS[b].values())))) for b in space.methods}
        expected = [size / most[b] for (b, _), size in sizes.items()]
        assert features[: len(expected)].tolist() == pytest.approx(expected)


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


def test_draws_are_from_botorchs_joint_posterior() -> None:
    known, some = data(), np.array([0, 3, 11, 12, 20, 29])
    surrogate = Surrogate(known)
    drawn = surrogate.own_draws(some, 100_000, np.random.default_rng(0))
    with torch.no_grad():
        theirs = surrogate._model.posterior(torch.from_numpy(known.features[some]))
    scale, center = surrogate._scale, surrogate._center
    expected, sd = theirs.mean[:, 0].numpy() * scale + center, theirs.variance[:, 0].sqrt().numpy() * scale
    assert surrogate.own(some) == pytest.approx(expected, abs=1e-3 * scale)
    assert (drawn.mean(axis=0) - expected) / sd == pytest.approx(0, abs=0.02)
    covariance = theirs.distribution.covariance_matrix.numpy() * scale**2
    assert np.cov(drawn.T) / np.outer(sd, sd) == pytest.approx(covariance / np.outer(sd, sd), abs=0.02)


def test_what_differs_from_its_neighbours_keeps_its_own_score() -> None:
    """A cut is near a point, and better or worse than it: the front has the cut's score, its neighbours do not."""
    known = data()
    lifted = Data(known.features, known.scores + np.eye(30)[0] * 0.5, np.eye(30)[0] * 0.25, known.shape)
    surrogate = Surrogate(lifted, Surrogate(known).fitted, steps=0)
    first = np.array([0])
    there = surrogate.posterior(known.features[:1])[0]
    assert surrogate.own(first) - there == pytest.approx(0.5, abs=0.2)
    assert there == pytest.approx(known.scores[:1], abs=0.2)
    draws = surrogate.own_draws(first, 4000, np.random.default_rng(0))
    assert draws.mean() == pytest.approx(surrogate.own(first)[0], abs=0.01)
    assert draws.std() <= surrogate.noise


def test_draws_where_a_candidate_stands_twice() -> None:
    known = data()
    both = (np.concatenate([v, v[:3]]) for v in (known.features, known.scores, known.variances))
    twice = Data(*both, known.shape)
    drawn = Surrogate(twice).own_draws(np.arange(33), 4, np.random.default_rng(0))
    assert np.isfinite(drawn).all()
    assert drawn[:, 30:] == pytest.approx(drawn[:, :3], abs=0.02)


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


def test_what_is_pending_is_as_if_it_had_been_observed() -> None:
    known, other, grid = data(), data(3, seed=7), data(20, seed=11).features
    before = Surrogate(known)
    believer = before.with_pending(other.features)
    both = Data(
        np.concatenate([known.features, other.features]),
        np.concatenate([known.scores, before.posterior(other.features)[0]]),
        np.zeros(33),
        known.shape,
    )
    made_anew = Surrogate(both, before.fitted, steps=0)
    # Standardised by what was known before, and by all.
    expected = made_anew.posterior(grid)[1] * spread_of(known.scores) / spread_of(both.scores)
    assert believer.posterior(grid)[1] == pytest.approx(expected)


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


def test_learning_rates_of_the_start_cover_the_upper_half_of_their_range() -> None:
    rates = sorted(point["learning_rate"] for point in design.start(PER_LAYER, BUDGET, 12, 0))
    assert 1e-3 <= rates[0] < 2e-3
    assert 5e-3 < rates[-1] <= 1e-2


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
    prior, name = options.pop("prior", None), options.pop("name", "known_cost")
    start = {"startup": 8} if name == "known_cost" else {}
    sampler = BudgetedSampler.for_space(
        PER_LAYER, BUDGET, {"name": name, **start, **options}, objectives=objectives, prior=prior
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
    study = search(objectives, directions, trials=24, axis=axis, seed=3)
    assert len({tuple(t.params.values()) for t in study.trials}) == 24
    random = search(objectives, directions, trials=24, name="random", seed=3)
    losses = [
        [[-v if d == "maximize" else v for v, d in zip(t.values, directions, strict=True)] for t in s.trials]
        for s in (study, random)
    ]
    corner = np.max(np.concatenate(losses), axis=0) + 1e-9
    assert hypervolume(losses[0], corner) > 1.02 * hypervolume(losses[1], corner)


def test_two_scores_are_refused() -> None:
    with pytest.raises(AutopeftError, match="exactly one score among the objectives, there are 2"):
        BudgetedSampler.for_space(PER_LAYER, BUDGET, "known_cost", objectives=("accuracy", "f1"))


def test_more_directions_than_objectives_are_refused() -> None:
    sampler = BudgetedSampler.for_space(PER_LAYER, BUDGET, "known_cost", objectives=("score",))
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    with pytest.raises(AutopeftError, match="2 directions, and 1 objectives"):
        PER_LAYER.suggest(study.ask())


def test_a_prior_comes_first() -> None:
    other = search(("score", "trainable_params"), ["maximize", "minimize"], trials=12)
    best = max(other.trials, key=lambda t: t.values[0])
    prior = Prior([t.params for t in other.trials], [t.values[0] for t in other.trials], [best.params])
    warm = search(("score", "trainable_params"), ["maximize", "minimize"], trials=12, prior=prior)
    assert warm.trials[0].params == best.params
    assert len({tuple(t.params.values()) for t in warm.trials}) == 12


def test_the_mean_from_another_task_is_what_proves_right_here() -> None:
    points = Points(PER_LAYER, BUDGET)
    rows = rows_of(PER_LAYER, points, 60)
    features = points.features(rows)
    truth = features[:, 0] + features[:, 4]
    elsewhere = learned_elsewhere(Prior([points.point(row) for row in rows], list(truth), []), points)
    assert np.corrcoef(elsewhere(features), truth)[0, 1] > 0.98
    # A slope by least squares, smaller while there are few, 0 where the other task says the contrary.
    same = trend_here(elsewhere, features, 3 * truth)(features)
    assert np.polyfit(3 * truth, same, 1)[0] == pytest.approx(60 / 64, abs=0.05)
    few = trend_here(elsewhere, features[:4], 3 * truth[:4])(features)
    assert np.ptp(few) < 0.7 * np.ptp(same)
    assert np.ptp(trend_here(elsewhere, features, -truth)(features)) == 0


def test_a_surrogate_with_a_trend_falls_back_on_it() -> None:
    known = data(8)
    far = np.full((1, known.features.shape[1]), 1.0)

    def trend(features: np.ndarray) -> np.ndarray:
        return 100 * features[:, 0]

    assert Surrogate(known, trend=trend).posterior(far)[0][0] > 10 > Surrogate(known).posterior(far)[0][0]


def failing_study(fails: Any, trials: int = 40) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = BudgetedSampler.for_space(PER_LAYER, BUDGET, {"name": "known_cost", "startup": 8})
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    for _ in range(trials):
        trial = study.ask()
        candidate = PER_LAYER.suggest(trial)
        if fails(trial.params):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, [score(trial.params), candidate.hybrid.num_params(TINY)])
    return study


def test_what_fails_again_and_again_is_left_alone() -> None:
    """High rates would be best if they did not diverge."""
    study = failing_study(lambda params: params["learning_rate"] > 1e-3)
    states = [t.state.name for t in study.trials]
    assert states[8:].count("FAIL") < 10 < states.count("COMPLETE")


def test_when_all_has_failed_so_far_proposals_are_spread() -> None:
    study = failing_study(lambda params: True, trials=24)
    costs = [PER_LAYER.hybrid(t.params).num_params(TINY) for t in study.trials[8:]]
    counts, _ = np.histogram(np.log(costs), bins=3, range=(math.log(128), math.log(3001)))
    assert min(counts) >= 2


@pytest.mark.parametrize("stopped_loss", [3.0, 30.0])
def test_no_score_outside_what_was_seen_is_believed(stopped_loss: float) -> None:
    """A line through losses and scores knows no bounds."""
    evaluations = [
        Evaluation(
            PER_LAYER.decode(PER_LAYER.random_point(np.random.default_rng(i))),
            "done",
            {"accuracy": 0.3 + 0.03 * i},
            curve=({"accuracy": 0.25, "loss": 1.2 - 0.05 * i}, {"accuracy": 0.3 + 0.03 * i, "loss": 1.0}),
        )
        for i in range(14)
    ]
    early = {"accuracy": 0.25, "loss": stopped_loss}
    point = PER_LAYER.random_point(np.random.default_rng(99))
    evaluations.append(Evaluation(PER_LAYER.decode(point), "stopped", {"accuracy": 0.25}, curve=(early,)))
    seen = Observations.of_evaluations(evaluations, Points(PER_LAYER, BUDGET), Objective.of("accuracy"), 2)
    assert seen.done.tolist() == [True] * 14 + [False]
    assert 0.3 <= seen.scores[14] <= 0.3 + 0.03 * 13


def test_an_error_without_a_bound_does_not_hide_the_others() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 1e4]
    evaluations = [
        Evaluation(PER_LAYER.decode(PER_LAYER.random_point(np.random.default_rng(i))), "done", {"mse": value})
        for i, value in enumerate(values)
    ]
    seen = Observations.of_evaluations(
        evaluations, Points(PER_LAYER, BUDGET), Objective(metric="mse", direction="min"), 1
    )
    assert seen.scores.tolist()[:4] == [-0.1, -0.2, -0.3, -0.4]
    assert -1 < seen.scores[4] < -0.4


@pytest.mark.parametrize(
    ("blocks", "limits"),
    [
        # Merged LoRA costs no FLOPs of inference; a space without 0; nothing but a rate.
        (BLOCKS, {"inference_flops": 52_000_000}),
        ({"lora": {"rank": [2, 4, 8]}}, {"trainable_params": 5000}),
        ({"lora": {"rank": [2]}}, {"trainable_params": 5000}),
    ],
)
def test_spaces_whose_smallest_hybrid_adds_nothing(blocks: Any, limits: dict[str, int]) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = SearchSpace.load({"blocks": blocks, "training": RATES}, TINY)
    budget = Budget(limits)
    sampler = BudgetedSampler.for_space(
        space, budget, {"name": "known_cost", "startup": 4}, objectives=("score", *limits)
    )
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    for number in range(10):
        trial = study.ask()
        candidate = space.suggest(trial)
        assert budget.fits(candidate.hybrid, TINY)
        study.tell(trial, [float(number % 3), *budget.costs(candidate.hybrid, TINY).values()])
    assert len({t.user_attrs["key"] for t in study.trials}) == 10


@SPACES
@pytest.mark.parametrize("name", COSTS.names())
def test_nothing_costs_less_than_the_beginning_of_the_axis(space: SearchSpace, name: str) -> None:
    points = Points(space, Budget(), [name])
    added = (points.costs(rows_of(space, points, 300)) - points.base)[:, 0]
    assert added[added > 0].min() >= points.extent[0, 0] > 0


def test_equal_scores_are_equal_in_spite_of_rounding() -> None:
    assert spread_of(np.array([0.8437] * 10)) == 1.0
    assert spread_of(np.array([0.1, 0.3])) == pytest.approx(0.1)


def test_fits_are_kept_with_the_trials_and_renewed() -> None:
    study = search(("score", "trainable_params"), ["maximize", "minimize"], trials=20)
    fits = [
        t.system_attrs["known_cost:fit"]["observations"] for t in study.trials if "known_cost:fit" in t.system_attrs
    ]
    assert fits[0] == 8
    assert fits == sorted(fits)
    assert 2 <= len(fits) < 12
