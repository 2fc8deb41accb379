"""Costs that are paid once a model, that differ before and after folding, and that fall with a size: by brute force."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from autopeft import AutopeftError, plugins, use_plugins
from autopeft.anatomy import ModelShape
from autopeft.attaching import Banks
from autopeft.budget import Budget, costs_of
from autopeft.hybrid import Hybrid
from autopeft.searching.known_cost.points import Points
from autopeft.space import SearchSpace

#: `knot` shares a core, keeps a mask's entries and folds into `line`; `coarse` trains less, and computes more, the
#: larger it is.
METHODS = """
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from autopeft.methods import Method, MethodFlops, Weight

class _Toy(Method):
    description: ClassVar[str] = "a toy"
    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "additive"
    formula: ClassVar[str] = "none"
    usual: ClassVar[Mapping[str, Any]] = {"n": 2}
    size: ClassVar[str] = "n"
    allowed_sites: ClassVar[tuple[str, ...]] = ("q", "v", "o")
    stage: ClassVar[int] = 40

    def flops(self, shape, site, length):
        return MethodFlops(2 * length * self.n, 2 * length * self.n, 0)

@dataclass(frozen=True)
class Line(_Toy):
    name: ClassVar[str] = "line"
    n: int
    sites: tuple[str, ...] = ("q",)

    def weights(self, shape, place):
        return {"line": Weight((self.n,), bits=16)}

@dataclass(frozen=True)
class Knot(_Toy):
    name: ClassVar[str] = "knot"
    n: int
    sites: tuple[str, ...] = ("q",)
    kind: str = "a"

    def weights(self, shape, place):
        return {"mine": Weight((self.n, 5), kept=3 * self.n), "basis": Weight((self.n, 7), kind="frozen")}

    def shared(self, shape):
        return {"core": Weight((self.n, 10 if self.kind == "a" else 3))}

    def bank_options(self):
        return (("kind", self.kind),)

    def folded(self):
        return Line(self.n, self.sites) if self.kind == "b" else self

@dataclass(frozen=True)
class Coarse(_Toy):
    name: ClassVar[str] = "coarse"
    n: int
    sites: tuple[str, ...] = ("q",)

    def weights(self, shape, place):
        return {"mine": Weight((64 // self.n,))}
"""
SITES = {**dict.fromkeys(("q", "k", "v", "o"), (64, 64)), "up": (64, 256), "down": (256, 64)}
TINY = ModelShape("bert", 3, 64, 256, 2, 2, 32, SITES, 100_000)
BLOCKS = {
    "low": {"method": "knot", "n": [0, 2, 4, 8], "sites": ["v"]},
    "high": {"method": "knot", "n": [0, 4, 16], "sites": ["o"]},
    "other": {"method": "knot", "n": [0, 3, 5], "sites": ["q"], "kind": "b"},
    "coarse": {"n": [0, 2, 8, 32]},
    "lora": {"rank": [0, 1, 2], "sites": ["q"]},
}
FIXED = BLOCKS | {"low": {"method": "knot", "n": [4], "sites": ["v"]}}
SPACES = {
    "per layer": {"blocks": BLOCKS},
    "shared": {"blocks": BLOCKS, "sizes": "shared"},
    "one size everywhere": {"blocks": FIXED},
    "one size in some layers": {"blocks": FIXED, "sizes": "shared"},
}
each_space = pytest.mark.parametrize("space", SPACES)


@pytest.fixture(scope="module", autouse=True)
def _methods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("toys")
    (folder / "toys.py").write_text(METHODS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plugins, "_folders", {})
        use_plugins(folder)
        yield


def by_hand(hybrid: Hybrid) -> dict[str, int]:
    """Trained and kept parameters and stored bytes, written out."""
    trained = kept = stored = 0
    cores: dict[str, int] = {}
    for methods in hybrid.layers:
        for m in methods:
            n, sites = m.size_value, len(m.sites)
            if m.name == "lora":
                trained, kept, stored = (t + u * 128 * n * sites for t, u in ((trained, 1), (kept, 1), (stored, 4)))
            elif m.name == "coarse":
                trained, kept, stored = trained + 64 // n, kept + 64 // n, stored + 4 * (64 // n)
            else:
                cores[m.kind] = max(cores.get(m.kind, 0), n)
                trained += 3 * n * sites
                kept += (3 if m.kind == "a" else 1) * n * sites
                stored += (4 * 10 if m.kind == "a" else 2) * n * sites
    core = cores.get("a", 0) * 10
    return {
        "trainable_params": trained + core + cores.get("b", 0) * 3,
        "kept_params": kept + core,
        "stored_bytes": stored + 4 * core,
    }


@each_space
def test_tables_give_what_the_hybrids_have(space: str) -> None:
    made, names = SearchSpace.load(SPACES[space], TINY), ("trainable_params", "kept_params", "stored_bytes")
    points, rng = Points(made, Budget(), names), np.random.default_rng(0)
    drawn = [made.random_point(rng) for _ in range(60)] + [{d.name: 0 for d in made.dimensions}]
    rows = np.stack([points.row(point) for point in drawn])
    found = points.costs(rows)
    for point, costs in zip(drawn, found, strict=True):
        hybrid = made.hybrid(point)
        assert dict(zip(names, costs, strict=True)) == by_hand(hybrid) == costs_of(hybrid, TINY, 8, names)
    assert len({m.name for p in drawn for ms in made.hybrid(p).layers for m in ms}) == 3
    if "one size" not in space:
        return
    assert (found[:, 0] > 0).mean() > 0.8


def test_the_count_is_what_the_banks_train() -> None:
    space, rng = SearchSpace.load(SPACES["per layer"], TINY), np.random.default_rng(1)
    hybrids = [space.hybrid(space.random_point(rng)) for _ in range(3)]
    banks = Banks(hybrids, TINY, [0] * 3)
    for k, hybrid in enumerate(hybrids):
        assert banks.trained_count(k) == by_hand(hybrid)["trainable_params"]


@each_space
@pytest.mark.parametrize("cost", ["trainable_params", "kept_params", "stored_bytes"])
def test_repair_ends_where_nothing_more_fits(cost: str, space: str) -> None:
    made, rng = SearchSpace.load(SPACES[space], TINY), np.random.default_rng(2)
    highest = {d.name: len(d.values) - 1 for d in made.dimensions}
    budget = Budget({cost: by_hand(made.hybrid(highest))[cost] // 3})
    budget.check_feasible(made)
    changed = 0
    for _ in range(20):
        point = made.random_point(rng)
        repaired, was = budget.repair(made, point, rng)
        changed += was
        assert by_hand(made.hybrid(repaired))[cost] <= budget.limits[cost]
        for name in (d.name for d in made.structure if repaired[d.name] < point[d.name]):
            more = repaired | {name: repaired[name] + 1}
            assert by_hand(made.hybrid(more))[cost] > budget.limits[cost], name
    assert changed


def test_sizes_stand_in_the_order_of_what_they_train() -> None:
    space = SearchSpace.load(SPACES["per layer"], TINY)
    values = {d.block: d.values for d in space.structure}
    assert values == {
        "low": (0, 2, 4, 8),
        "high": (0, 4, 16),
        "other": (0, 3, 5),
        "coarse": (0, 32, 8, 2),
        "lora": (0, 1, 2),
    }
    counts = [space.hybrid({d.name: 0 for d in space.dimensions} | {"L01.coarse.n": i}) for i in range(4)]
    assert [h.num_params(TINY) for h in counts] == [0, 2, 8, 32]
    # Written and read again, they are the same; so are points of a candidate.
    assert SearchSpace.load(space.to_json(), TINY).dimensions == space.dimensions
    point = space.random_point(np.random.default_rng(3))
    assert space.hybrid(space.encode(space.decode(point))) == space.hybrid(point)
    unit = Points(space, Budget()).unit(np.full((1, len(space.dimensions)), 2.0))[0]
    assert dict(zip((d.name for d in space.dimensions), unit, strict=True))["L00.coarse.n"] == pytest.approx(2 / 3)


def test_a_limit_on_a_cost_that_falls_in_that_order_is_refused() -> None:
    space = SearchSpace.load({"blocks": {"coarse": {"n": [0, 2, 8, 32]}}}, TINY)
    Budget({"trainable_params": 10, "kept_params": 10, "stored_bytes": 40}).check_feasible(space)
    for limits in ({"inference_flops": 10**9}, {"trainable_params": 10, "training_flops": 10**9}):
        with pytest.raises(AutopeftError, match=r"_flops: falls from .* between sizes 32 and 8 of block 'coarse'") as e:
            Budget(limits).check_feasible(space)
        assert "limit another cost" in str(e.value)
    Budget({"inference_flops": 10**9}).check_feasible(SearchSpace.load({"blocks": {"coarse": {"n": [0, 8]}}}, TINY))
