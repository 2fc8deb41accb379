"""What the sampler `known_cost` makes of candidates that are no points of its space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_known_cost import BLOCKS, PER_LAYER, RATES, SHARED, SPACES, TINY
from test_study import OBJECTIVES

from autopeft.budget import Budget
from autopeft.candidate import Candidate, Evaluation, Job, Origin
from autopeft.hybrid import Hybrid
from autopeft.methods.bitfit import BitFit
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.searching.known_cost.near import near_row, rounded
from autopeft.searching.known_cost.observations import Observations
from autopeft.searching.known_cost.points import Points
from autopeft.searching.known_cost.sampler import KnownCostSampler
from autopeft.searching.objective import Objective
from autopeft.searching.problem import Problem
from autopeft.searching.study import Study
from autopeft.space import SearchSpace

BUDGET = Budget({"trainable_params": 8000})
CUT = Hybrid.from_layers(3, {1: [LoRA(3, sites=("q",)), LoRA(1, sites=("v",))], 2: [Prefix(2)]})


@SPACES
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_point_is_near_itself(space: SearchSpace, seed: int) -> None:
    point = space.random_point(np.random.default_rng(seed))
    candidate = space.decode(point)
    near = space.near_point(candidate.hybrid)
    assert near is not None
    assert space.hybrid({name: int(level) for name, level in near.items()}) == candidate.hybrid
    assert all(level == int(level) for level in near.values())


def test_a_cut_lies_between_points() -> None:
    near = PER_LAYER.near_point(CUT)
    assert near is not None
    # Rank 2 on the mean is the list's first, length 2 lies between 1 and 4 as log2(3) does between 1 and log2(5).
    present = {name: level for name, level in near.items() if level}
    assert present == pytest.approx({"L01.lora.rank": 1.0, "L02.prefix.length": 1 + 0.585 / 1.3219}, abs=1e-3)
    one = PER_LAYER.near_point(Hybrid.from_layers(3, {0: [LoRA(1, sites=("q",))]}))
    assert one is not None
    assert one["L00.lora.rank"] == pytest.approx(np.log2(1.5) / np.log2(3))
    shared = SHARED.near_point(CUT)
    assert shared is not None
    assert [shared[f"L{i:02}.on"] for i in range(3)] == [0, 1, 1]
    assert shared["lora.rank"] == pytest.approx(1.0)


def test_what_the_space_does_not_have_is_near_nothing() -> None:
    assert PER_LAYER.near_point(Hybrid.uniform(3, BitFit(1))) is None
    assert PER_LAYER.near_point(Hybrid.uniform(3, LoRA(2, sites=("q", "v", "o")))) is None


@SPACES
def test_features_between_points_are_those_of_the_sizes(space: SearchSpace) -> None:
    points = Points(space, BUDGET)
    row = near_row(points, Candidate(Hybrid.uniform(3, LoRA(3)), {"learning_rate": 1e-1}))
    assert row is not None
    features = points.features(row[None])[0]
    assert sorted(set(features[:9].round(6))) == pytest.approx([0, 2 / np.log2(9)])
    # The rate lies beyond the range, what the candidate does not say in its middle.
    assert features[9:] == pytest.approx([1.5, 0.5])
    inside = points.point(rounded(points, row[None])[0])
    space.check(inside)
    assert inside["learning_rate"] == 1e-2


def searched(run: Path, hybrids: list[tuple[Hybrid, float, Origin | None]]) -> tuple[Study, Any]:
    """A study with candidates of these hybrids and scores, and the trial that is asked for next."""
    study = Study.open(run, PER_LAYER, BUDGET, OBJECTIVES, {"name": "known_cost", "startup": 1})
    parent = ""
    for hybrid, score, origin in hybrids:
        origin = replace(origin, parent=parent) if origin is not None else None
        training = {"learning_rate": 3e-3, "weight_decay": 0.01} if origin is None else {"learning_rate": 3e-4}
        proposal = study.propose(Job(Candidate(hybrid, training), origin=origin))
        metrics = {"accuracy": score, "trainable_params": hybrid.num_params(TINY)}
        study.tell(Evaluation(proposal.candidate, "done", metrics, proposal.number, origin=origin))
        parent = proposal.candidate.key
    return study, study._file.get_trial(study._study.ask()._trial_id)


LARGE, UNKNOWN = Hybrid.uniform(3, LoRA(8)), Hybrid.uniform(3, BitFit(1))
TOO_MUCH = Hybrid.uniform(3, LoRA(8), Prefix(16))
HEALED = Origin("parent", "start")


def test_all_that_has_ended_is_seen_at_its_true_cost(tmp_path: Path) -> None:
    study, trial = searched(
        tmp_path, [(LARGE, 0.8, None), (CUT, 0.7, HEALED), (UNKNOWN, 0.6, None), (TOO_MUCH, 0.9, None)]
    )
    points = Points(PER_LAYER, BUDGET, ["trainable_params"])
    seen = Observations.of(study._study, trial, points, Objective.of("accuracy"), 0, 1)
    assert seen.scores.tolist() == [0.8, 0.7]
    assert seen.costs[:, 0].tolist() == [LARGE.num_params(TINY), CUT.num_params(TINY)]
    assert [values.ravel().tolist() for values in seen.beside] == [[0.6], [UNKNOWN.num_params(TINY)]]
    assert seen.variances[0] == 0 < seen.variances[1]
    # A healing counts at the rate of the training that it goes back to.
    rate = [d.name for d in PER_LAYER.dimensions].index("learning_rate")
    assert seen.rows[:, rate].tolist() == [3e-3, 3e-3]
    assert len(seen.known) == 1


def test_nothing_is_gained_where_a_cut_or_a_control_is_as_good(tmp_path: Path) -> None:
    """Its neighbours gain less than they would if it were not there: the front has it, at its true cost."""
    gains = {}
    rows = [(LARGE, 0.8, None), (Hybrid.uniform(3, LoRA(2)), 0.5, None), (Hybrid.uniform(3, Prefix(1)), 0.4, None)]
    for name, more in {"alone": [], "cut": [(CUT, 0.8, HEALED)], "control": [(UNKNOWN, 0.8, None)]}.items():
        study, trial = searched(tmp_path / name, [rows[0], *more, *rows[1:]])
        sampler = KnownCostSampler(Problem(PER_LAYER, BUDGET, OBJECTIVES), 0, 0, 1, "log")
        points = sampler._points(["trainable_params"])
        seen = Observations.of(study._study, trial, points, OBJECTIVES[0], 0, 1)
        surrogate = sampler._surrogate(study._study, trial, points, seen)
        gain, front = sampler._gain(points, seen, surrogate, np.random.default_rng(0))
        assert all(PER_LAYER.check(points.point(row)) is None for row in front)
        middle = points.row(
            {**PER_LAYER.encode(Candidate(LARGE, {"learning_rate": 3e-3, "weight_decay": 0.01})), "L00.lora.rank": 0}
        )
        gains[name] = float(gain(middle[None])[0])
    assert gains["control"] < 0.8 * gains["alone"]
    assert gains["cut"] < 0.8 * gains["alone"]


def test_spaces_of_one_size_a_block_are_near_too() -> None:
    space = SearchSpace.load({"blocks": {**BLOCKS, "bitfit": {"active": [0, 1]}}, "training": RATES}, TINY)
    near = space.near_point(Hybrid.from_layers(3, {2: [BitFit(1)]}))
    assert near is not None
    assert near["L02.bitfit.active"] == 1
