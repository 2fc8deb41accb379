from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.anatomy import ModelShape
from autopeft.budget import Budget, costs_of, share_within
from autopeft.costs import COSTS
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.space import SearchSpace

SITES = dict.fromkeys("qkvo", (768, 768)) | {"up": (768, 3072), "down": (3072, 768)}
BERT = ModelShape("bert", 12, 768, 3072, 12, 12, 64, SITES, 109_482_240)


@pytest.mark.parametrize(
    ("raw", "limit"),
    [
        ("0.5%", 547_411),
        ("0.1%", 109_482),
        ("100 %", 109_482_240),
        (1000, 1000),
        (1e6, 1_000_000),
        ("1.2M", 1_200_000),
        ("300k", 300_000),
    ],
)
def test_limits_as_written(raw: str | float, limit: int) -> None:
    assert Budget.resolve({"trainable_params": raw}, BERT, 128).limits == {"trainable_params": limit}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"trainable_prams": 1}, "budget.trainable_prams: unknown cost.*did you mean 'trainable_params'"),
        ({"trainable_params": "0.5"}, "budget.trainable_params: must be at least 1; write a share as '0.5%'"),
        ({"trainable_params": 0}, "must be at least 1"),
        ({"trainable_params": -3}, "must be at least 1"),
        ({"trainable_params": True}, "expected a number"),
        ({"trainable_params": "some"}, "expected a number"),
    ],
)
def test_wrong_limits(raw: dict, message: str) -> None:
    with pytest.raises(AutopeftError, match=message):
        Budget.resolve(raw, BERT, 128)


def test_fits_and_excess() -> None:
    hybrid = Hybrid.uniform(12, LoRA(8))
    assert costs_of(hybrid, BERT, 128, ["trainable_params"]) == {"trainable_params": 294_912}
    assert set(costs_of(hybrid, BERT, 128)) == set(COSTS.names())
    assert Budget({"trainable_params": 294_912}).fits(hybrid, BERT)
    assert Budget({"trainable_params": 294_911}).excess(hybrid, BERT) == {"trainable_params": 1}
    assert Budget().fits(hybrid, BERT)


@pytest.mark.parametrize(
    ("name", "least"), [("hybrid", 1536), ("lora_ranks", 3072), ("autopeft_paper", 1536)], ids=lambda v: str(v)
)
def test_smallest_and_feasibility(name: str, least: int) -> None:
    space = SearchSpace.load(name, BERT)
    assert Budget({"trainable_params": 1}).smallest(space) == {"trainable_params": least}
    Budget({"trainable_params": least}).check_feasible(space)
    with pytest.raises(AutopeftError, match=rf"trainable_params <= {least - 1:,}; .* needs {least:,}$"):
        Budget({"trainable_params": least - 1}).check_feasible(space)


def test_limits_that_exclude_each_other() -> None:
    # LoRA is merged and free at inference but has more parameters than a prefix.
    blocks = {"lora": {"rank": [0, 8]}, "prefix": {"length": [0, 1]}}
    space = SearchSpace.load({"blocks": blocks}, BERT)
    free = costs_of(Hybrid.uniform(12), BERT, 128)["inference_flops"]
    budget = Budget({"inference_flops": free, "trainable_params": 2000})
    with pytest.raises(AutopeftError, match=r"inference_flops <= .* and trainable_params <= 2,000 together"):
        budget.check_feasible(space)


LIMITS = [
    {"trainable_params": "0.5%"},
    {"trainable_params": 3100},
    {"training_flops": "70%", "trainable_params": "1%"},
    {"inference_flops": "100.2%"},
    {"stored_bytes": "0.1%"},
]


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["hybrid", "lora_ranks", "autopeft_paper"]),
    raw=st.sampled_from(LIMITS),
    seed=st.integers(0, 10**6),
)
def test_repair(name: str, raw: dict, seed: int) -> None:
    space = SearchSpace.load(name, BERT)
    budget = Budget.resolve(raw, BERT, 128)
    point = space.random_point(np.random.default_rng(seed))
    fixed, repaired = budget.repair(space, point, np.random.default_rng(seed))
    assert budget.fits(space.decode(fixed).hybrid, BERT)
    assert repaired == (fixed != point)
    assert repaired != budget.fits(space.decode(point).hybrid, BERT)
    assert (fixed, repaired) == budget.repair(space, point, np.random.default_rng(seed))
    structure = {d.name for d in space.structure}
    for key, value in point.items():
        assert fixed[key] <= value if key in structure else fixed[key] == value
        if fixed[key] < value:
            # Nothing can be put back.
            assert not budget.fits(space.decode(fixed | {key: fixed[key] + 1}).hybrid, BERT)


def test_repair_of_a_space_without_absent_methods_reaches_its_smallest_hybrid() -> None:
    space = SearchSpace.load({"blocks": {"lora": {"rank": [4, 8]}}}, BERT)
    smallest = space.hybrid({d.name: 0 for d in space.dimensions}).num_params(BERT)
    top = {d.name: 1 for d in space.dimensions}
    budget = Budget({"trainable_params": smallest})
    assert not any(budget.repair(space, top, np.random.default_rng(0))[0].values())
    with pytest.raises(AutopeftError, match="nothing in the space fits"):
        Budget({"trainable_params": smallest - 1}).repair(space, top, np.random.default_rng(0))


@pytest.mark.parametrize("name", COSTS.names())
def test_costs_never_fall_when_a_size_grows(name: str) -> None:
    """What the bisection of `repair` rests on."""
    space, rng, cost = SearchSpace.load("hybrid", BERT), np.random.default_rng(0), COSTS.get(name)()
    for _ in range(20):
        point = space.random_point(rng)
        above = dict(point)
        for d in space.structure:
            above[d.name] = int(rng.integers(point[d.name], len(d.values)))
        assert cost.of(space.hybrid(point), BERT, 64) <= cost.of(space.hybrid(above), BERT, 64)


@pytest.mark.parametrize("raw", LIMITS, ids=str)
def test_tightened_budgets_lie_between_the_smallest_hybrid_and_the_limits(raw: dict) -> None:
    space, budget = SearchSpace.load("hybrid", BERT), Budget.resolve(raw, BERT, 128)
    empty = costs_of(Hybrid.uniform(12), BERT, 128)
    assert budget.tightened(space, 1.0) == budget
    assert budget.tightened(space, 0.0).limits == {name: empty[name] for name in raw}
    least = budget.least_share(space)
    assert 0 <= least < 1
    for name in raw:
        part = Budget({name: budget.tightened(space, least).limits[name]}, 128)
        part.check_feasible(space)
    assert Budget().least_share(space) == 1.0


def test_share_within() -> None:
    space = SearchSpace.load("hybrid", BERT)
    share = share_within(space, Budget({"trainable_params": 1_160_000}), 100, np.random.default_rng(0))
    low, middle, high = share.costs["trainable_params"]
    assert 0 < low < middle < high
    assert 0.2 < share.within < 0.8
    assert share_within(space, Budget(), 10, np.random.default_rng(0)).within == 1.0
