"""Trained hybrids are cut to some of their units: what is left computes what it did, and fits the limit.

Shapes: U units of a method at a place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import numpy as np
import pytest
import torch
from conformance import bench, members_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import METHOD_NAMES, classifier, everywhere, in_layers, make, perturb, right_padded, sized
from tiny_packs import Bench

from autopeft.anatomy import ModelShape, shape_of
from autopeft.attaching import Attachment, Banks
from autopeft.candidate import Candidate
from autopeft.costs import COSTS
from autopeft.cutting import canonical, cut_hybrid, cut_to, sites_of
from autopeft.engine.data import training_batches
from autopeft.engine.importance import make_canonical, unit_importance
from autopeft.engine.pack import Pack
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.knapsack import Options, by_multiplier, chosen, exact
from autopeft.methods import METHODS, Method

Weights = dict[str, torch.Tensor]
FAMILIES = ["bert", "llama"]
#: In double precision: what differs is then the rounding of weights.
MODELS = {family: classifier(family).double() for family in FAMILIES}
INPUTS = {family: right_padded(model, (7, 4, 1)) for family, model in MODELS.items()}
SHAPE = shape_of(MODELS["bert"])


def can_be_cut(method: Method, shape: ModelShape = SHAPE) -> bool:
    return method.units(shape, method.places(shape)[0]) is not None


#: Of all kinds.
COMMON = ["adamix", "dora", "ia3", "kernel_mix", "lora", "lora_fa", "mpt", "prefix", "residual", "sequential"]
CUT = [name for name in METHOD_NAMES if can_be_cut(make(name))]
WHOLE = [name for name in METHOD_NAMES if name not in CUT]
#: By default a method of each kind.
EACH = [name if name in COMMON else pytest.param(name, marks=pytest.mark.slow) for name in CUT]


def trained(hybrid: Hybrid, shape: ModelShape) -> Weights:
    """Weights far from their first values, named like `Pack.weights`."""
    banks = Banks([hybrid], shape, [0])
    perturb(banks)
    head = {"head.classifier.bias": torch.ones(3)}
    return head | {f"hybrid.{name}": w.detach().clone() for name, w in banks.weights().items()}


@torch.no_grad()
def output(
    family: str, hybrid: Hybrid, weights: Mapping[str, torch.Tensor], prepare: Callable[[Banks], None] = lambda _: None
) -> torch.Tensor:
    """Logits of the hybrid with these weights."""
    own = {n.removeprefix("hybrid."): w for n, w in weights.items() if n.startswith("hybrid.")}
    with Attachment(MODELS[family], hybrid) as attached:
        attached.banks.load(own)
        prepare(attached.banks)
        return MODELS[family](**INPUTS[family]).logits


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def drawn(hybrid: Hybrid, shape: ModelShape, seed: int = 0) -> Weights:
    """Importances that are drawn."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for site in sites_of(hybrid, shape):
        if units := site.method.units(shape, site.place):
            found[site.name] = torch.rand(units.count, generator=generator)
    return found


def left(hybrid: Hybrid, cut: Hybrid, importance: Weights, shape: ModelShape) -> dict[str, torch.Tensor]:
    """By bank [U]: 1 for units of the large hybrid that the cut one has, which are the most important ones."""
    there = {site.name: units_in(site.method) for site in sites_of(cut, shape)}
    found = {}
    for name, score in importance.items():
        count = there.get(name, 0)
        found[name] = torch.zeros(len(score)).index_fill(0, score.sort(descending=True).indices[:count], 1.0)
    return found


def units_in(method: Method) -> int:
    return method.size_value if method.unit_axes else 1


def zeroed(hybrid: Hybrid, weights: Weights, masks: Mapping[str, torch.Tensor], shape: ModelShape) -> Weights:
    """The large hybrid's weights with zeros in all that was cut; where no unit is left, in all of the bank."""
    found = dict(weights)
    for site in sites_of(hybrid, shape):
        mask = masks[site.name]
        for key in (n for n in weights if n.startswith(f"hybrid.{site.name}.")):
            axis = site.method.unit_axes.get(key.rpartition(".")[2])
            if not mask.any():
                found[key] = torch.zeros_like(weights[key])
            elif axis is not None:
                found[key] = (weights[key].movedim(axis, -1) * mask).movedim(-1, axis)
    return found


# --- every method ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EACH)
def test_cutting_nothing_changes_nothing(name: str) -> None:
    for family in FAMILIES:
        shape, method = shape_of(MODELS[family]), make(name, sized(METHODS.get(name))[1])
        hybrid = everywhere(method)
        weights = trained(hybrid, shape)
        ready = canonical(hybrid, weights, shape)
        assert apart(output(family, hybrid, ready), output(family, hybrid, weights)) < 1e-6
        for site in sites_of(hybrid, shape):
            own = {n.rpartition(".")[2]: w for n, w in ready.items() if n.startswith(f"hybrid.{site.name}.")}
            same, kept = site.method.cut(own, torch.arange(site.method.units(shape, site.place).count))
            assert same == site.method
            assert own.keys() == kept.keys()
            assert all(torch.equal(own[n], kept[n]) for n in own)
        assert cut_hybrid(hybrid, ready, drawn(hybrid, shape), hybrid.num_params(shape), shape) == (hybrid, ready)


@pytest.mark.parametrize("name", EACH)
def test_what_is_cut_is_the_large_one_without_its_other_units(name: str) -> None:
    for family in FAMILIES:
        shape = shape_of(MODELS[family])
        hybrid = everywhere(make(name, sized(METHODS.get(name))[1]))
        weights, importance = canonical(hybrid, trained(hybrid, shape), shape), drawn(hybrid, shape)
        all_units = [site.method.units(shape, site.place) for site in sites_of(hybrid, shape)]
        limit = hybrid.num_params(shape) - int(0.4 * sum(u.count * u.each for u in all_units))
        cut, own = cut_hybrid(hybrid, weights, importance, limit, shape)
        units = [(site, site.method.units(shape, site.place)) for site in sites_of(cut, shape)]
        assert 0 < cut.num_params(shape) <= limit
        again = cut_to(hybrid, cut, weights, importance, shape)
        assert again.keys() == own.keys()
        assert all(torch.equal(again[n], own[n]) for n in own)
        assert cut.num_params(shape) == sum(u.params(units_in(site.method)) for site, u in units)
        assert Banks([cut], shape, [0]).trained_count() == cut.num_params(shape)
        masks = left(hybrid, cut, importance, shape)
        if make(name).of_model:
            # In the model the vectors close up.
            (mask,) = masks.values()
            assert apart(_prompt(cut, own, shape), _prompt(hybrid, weights, shape)[mask.bool()]) < 1e-6
            continue
        if make(name).attention_columns():
            expected = output(family, hybrid, weights, partial(_without_columns, masks))
        else:
            expected = output(family, hybrid, zeroed(hybrid, weights, masks, shape))
        assert apart(output(family, cut, own), expected) < 1e-6
        assert apart(expected, output(family, hybrid, weights)) > 1e-4, "nothing was cut"


def _prompt(hybrid: Hybrid, weights: Weights, shape: ModelShape) -> torch.Tensor:
    banks = Banks([hybrid], shape, [0])
    banks.load({n.removeprefix("hybrid."): w for n, w in weights.items() if n.startswith("hybrid.")})
    (bank,) = banks.prompts
    return bank.method.prompt(bank)[0].detach()


def _without_columns(masks: Mapping[str, torch.Tensor], banks: Banks) -> None:
    """Mask the columns that were cut, as a pack does with those that are not a candidate's own."""
    for name, bank in banks.named_banks():
        bank.own_columns = masks[name].bool()[None]


@pytest.mark.parametrize("name", WHOLE)
def test_what_cannot_be_cut_stays_whole_or_is_named(name: str) -> None:
    method, lora = make(name, sized(METHODS.get(name))[1]), make("lora", 4)
    if method.name == "delta_lora":
        lora = make("sequential", 4)
    hybrid = everywhere(method, lora)
    weights, importance = trained(hybrid, SHAPE), drawn(hybrid, SHAPE)
    alone = everywhere(method)
    cut, own = cut_hybrid(hybrid, weights, importance, alone.num_params(SHAPE) + 500, SHAPE)
    assert all(method in methods for methods in cut.layers) or method in cut.model
    assert alone.num_params(SHAPE) < cut.num_params(SHAPE) <= alone.num_params(SHAPE) + 500
    kept = [n for n in weights if f".{method.bank_name}" in n]
    assert all(torch.equal(weights[n], own[n]) for n in kept)
    assert len(kept) == sum(f".{method.bank_name}" in n for n in own)
    with pytest.raises(AutopeftError, match=f"{method.label}' cannot be cut.*raise the limit"):
        cut_hybrid(hybrid, weights, importance, alone.num_params(SHAPE) - 1, SHAPE)


# --- hybrids ---------------------------------------------------------------------------------------------------------


def test_places_of_one_method_get_sizes_of_their_own() -> None:
    hybrid = in_layers({1: [make("lora", 4, sites=("q", "v"), alpha=8, rank_stabilised=True)]})
    weights = canonical(hybrid, trained(hybrid, SHAPE), SHAPE)
    importance = {"layers.1.q.lora": torch.tensor([9.0, 8, 7, 6]), "layers.1.v.lora": torch.tensor([0.3, 0.1, 0.2, 9])}
    cut, own = cut_hybrid(hybrid, weights, importance, 5 * 64, SHAPE)
    sizes = {method.sites: method.size_value for method in cut.layers[1]}
    assert sizes == {("q",): 4, ("v",): 1}
    assert {method.output_scale() for method in cut.layers[1]} == {4.0}
    assert torch.equal(own["hybrid.layers.1.v.lora.A"], weights["hybrid.layers.1.v.lora.A"][3:])
    assert Hybrid.from_json(cut.to_json()) == cut


@pytest.mark.parametrize("name", ["lora", "parallel", "prefix"])
def test_a_gate_is_the_first_units(name: str) -> None:
    plain, gated = in_layers({0: [make(name, 4)]}), in_layers({0: [make(name, 4, gated=True)]})
    weights, importance = canonical(gated, trained(gated, SHAPE), SHAPE), drawn(gated, SHAPE)
    for site, other in zip(sites_of(gated, SHAPE), sites_of(plain, SHAPE), strict=True):
        own, bare = (s.method.units(SHAPE, s.place) for s in (site, other))
        wide = SHAPE.width(site.place)[0] if name == "lora" else SHAPE.hidden
        assert (own.count, own.each, own.first - bare.first) == (4, bare.each, wide + 1)
    cut, kept = cut_hybrid(gated, weights, importance, gated.num_params(SHAPE) * 2 // 3, SHAPE)
    masks = left(gated, cut, importance, SHAPE)
    if name == "prefix":
        expected = output("bert", gated, weights, partial(_without_columns, masks))
    else:
        expected = output("bert", gated, zeroed(gated, weights, masks, SHAPE))
    assert apart(output("bert", cut, kept), expected) < 1e-6


def test_singular_directions_are_in_order_and_a_dead_one_can_be_trained() -> None:
    hybrid = in_layers({0: [make("lora", 5, sites=("q",))]})
    fresh = {f"hybrid.{n}": w for n, w in Banks([hybrid], SHAPE, [0]).weights().items()}
    for weights in (trained(hybrid, SHAPE), fresh):
        ready = canonical(hybrid, weights, SHAPE)
        a, b = (ready[f"hybrid.layers.0.q.lora.{w}"] for w in "AB")
        before = weights["hybrid.layers.0.q.lora.B"] @ weights["hybrid.layers.0.q.lora.A"]
        torch.testing.assert_close(b @ a, before)
        assert (a.norm(dim=1) > 0).all()
        if before.any():
            torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0))
            assert a.norm(dim=1).diff().max() < 0
            torch.testing.assert_close(a.norm(dim=1).square(), torch.linalg.svdvals(before)[:5])


def test_what_is_no_cut_is_named() -> None:
    shape = SHAPE
    hybrid, other = everywhere(make("lora", 4)), everywhere(make("sequential", 2))
    with pytest.raises(AutopeftError, match="is no cut of"):
        cut_to(hybrid, other, trained(hybrid, shape), drawn(hybrid, shape), shape)


def test_no_room_leaves_the_head() -> None:
    hybrid = everywhere(make("lora", 2), make("prefix", 3))
    cut, own = cut_hybrid(hybrid, trained(hybrid, SHAPE), drawn(hybrid, SHAPE), 0, SHAPE)
    assert cut.is_empty
    assert own.keys() == {"head.classifier.bias"}


def test_layers_that_share_what_is_frozen_keep_its_leading_part() -> None:
    hybrid = in_layers({0: [make("vera", 6, sites=("q",))], 1: [make("vera", 3, sites=("q",))]})
    weights = trained(hybrid, SHAPE)
    importance = {"layers.0.q.vera": torch.tensor([0.1]), "layers.1.q.vera": torch.tensor([9.0])}
    cut, own = cut_hybrid(hybrid, weights, importance, 40, SHAPE)
    assert cut == in_layers({1: [make("vera", 3, sites=("q",))]})
    expected = {n: torch.zeros_like(w) if "layers.0" in n else w for n, w in weights.items()}
    assert apart(output("bert", cut, own), output("bert", hybrid, expected)) < 1e-6


@pytest.mark.parametrize("name", ["inference_flops", "stored_bytes", "training_flops", "kept_params"])
def test_the_limit_may_be_on_any_cost(name: str) -> None:
    hybrid = everywhere(*(make(m, 4) for m in ("lora", "sequential", "prefix", "prompt_tuning", "vera")))
    cost, weights, importance = COSTS.get(name)(), trained(hybrid, SHAPE), drawn(hybrid, SHAPE)
    empty, whole = (cost.of(h, SHAPE, 16) for h in (everywhere(), hybrid))
    limit = (empty + whole) // 2
    cut, _ = cut_hybrid(hybrid, weights, importance, limit, SHAPE, cost, 16)
    assert empty + (whole - empty) * 0.25 < cost.of(cut, SHAPE, 16) <= limit


def test_importances_that_cannot_be_used_are_named() -> None:
    hybrid = everywhere(make("lora", 2, sites=("q",)))
    weights, importance = trained(hybrid, SHAPE), drawn(hybrid, SHAPE)
    for wrong, words in (
        (importance | {"layers.1.q.lora": torch.ones(3)}, "layers.1.q.lora needs the importance of 2 units, and 3"),
        ({n: w for n, w in importance.items() if "layers.2" not in n}, "layers.2.q.lora needs .* none was given"),
        (importance | {"layers.0.q.lora": torch.tensor([1, torch.nan])}, "layers.0.q.lora is no finite number"),
    ):
        with pytest.raises(AutopeftError, match=words):
            cut_hybrid(hybrid, weights, wrong, 100, SHAPE)


# --- the knapsack ----------------------------------------------------------------------------------------------------

_PLACES = st.lists(
    st.tuples(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 5)),
    min_size=1, max_size=4,
)  # fmt: skip


def _options(scores: Sequence[int], each: int, first: int) -> Options:
    gains = np.cumsum([0.0, *sorted(scores, reverse=True)])
    return Options(gains, np.array([0.0] + [first + n * each for n in range(1, len(gains))]))


def _best(options: Sequence[Options], room: float) -> float:
    choices = itertools.product(*(range(len(o.gains)) for o in options))
    return max(_gain(options, c) for c in choices if _cost(options, c) <= room)


def _gain(options: Sequence[Options], counts: Sequence[int]) -> float:
    return sum(float(o.gains[n]) for o, n in zip(options, counts, strict=True))


def _cost(options: Sequence[Options], counts: Sequence[int]) -> float:
    return sum(float(o.costs[n]) for o, n in zip(options, counts, strict=True))


@settings(max_examples=25, deadline=None)
@given(places=_PLACES, room=st.integers(0, 60))
def test_what_is_chosen_is_the_best_that_fits(places: list[tuple[list[int], int, int]], room: int) -> None:
    options = [_options(*place) for place in places]
    most = _best(options, room)
    counts = chosen(options, room)
    assert _cost(options, counts) <= room
    assert _gain(options, counts) == most
    # With more room than a table has: short of the best by no more than the units of one place.
    counts = by_multiplier(options, room)
    assert _cost(options, counts) <= room
    assert _gain(options, counts) >= most - max(o.gains[-1] for o in options)
    for i, o in enumerate(options):
        more = [n for n in range(len(o.gains)) if o.gains[n] > o.gains[counts[i]]]
        assert all(_cost(options, [*counts[:i], n, *counts[i + 1 :]]) > room for n in more), "room is left"
    alike = [_options(scores, 3, 0) for scores, _, _ in places]
    assert _gain(alike, by_multiplier(alike, room)) == _best(alike, room)


def test_the_multiplier_is_close_to_the_best_where_there_is_much_room() -> None:
    scores = np.random.default_rng(0).lognormal(0, 1.5, (24, 8)) * 100
    options = [_options(list(own.round()), 20, 10) for own in scores]
    for room in (600, 2_000):
        most, found = (_gain(options, choose(options, room)) for choose in (exact, by_multiplier))
        assert most * 0.98 < found <= most


# --- importance ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("models"), "bert")


def pack_of(bench: Bench, candidates: Sequence[Candidate], weights: Sequence[Weights] = ()) -> Pack:
    pack = Pack(bench.backbone, candidates, bench.settings)
    for k, own in enumerate(weights):
        pack.load(k, own)
    return pack


@cache
def _moved(bench: Bench, candidate: Candidate) -> Weights:
    """Weights that have moved, in canonical form; the same at every call."""
    with pack_of(bench, [candidate]) as pack, torch.no_grad():
        perturb(pack, scale=0.1)
        make_canonical(pack)
        return pack.weights(0)


@pytest.mark.parametrize("name", EACH)
def test_importance_is_the_same_in_any_company(small_bench: Bench, name: str) -> None:
    members, frozen = members_of(METHODS.get(name)), small_bench.frozen(0)
    weights = [_moved(small_bench, member) for member in members]
    with pack_of(small_bench, members, weights) as pack:
        packed = unit_importance(pack, small_bench.data, frozen, 2)
        assert all(p.grad is None for p in pack.parameters())
        assert all(torch.equal(w, pack.weights(0)[n]) for n, w in weights[0].items())
    shape = small_bench.backbone.shape
    for k, member in enumerate(members):
        counts = {s.name: s.method.units(shape, s.place) for s in sites_of(member.hybrid, shape)}
        assert {n: len(score) for n, score in packed[k].items()} == {n: u.count for n, u in counts.items() if u}
    for k in (1, 2):
        with pack_of(small_bench, [members[k]], [weights[k]]) as pack:
            alone = unit_importance(pack, small_bench.data, frozen, 2)[0]
        largest = max(float(score.max()) for score in alone.values())
        assert largest > 0
        for bank, score in alone.items():
            torch.testing.assert_close(packed[k][bank], score, rtol=1e-5, atol=1e-5 * largest)


def test_importance_is_how_the_loss_changes_and_nothing_where_weights_are_zero(small_bench: Bench) -> None:
    candidate = Candidate(in_layers({1: [make("lora", 3, sites=("v",)), make("parallel", 2, activation="gelu")]}))
    weights = dict(_moved(small_bench, candidate))
    for name, axis in (("lora.A", 0), ("lora.B", 1)):
        weights[f"hybrid.layers.1.v.{name}"] = weights[f"hybrid.layers.1.v.{name}"].index_fill(axis, torch.tensor(2), 0)
    data, frozen = small_bench.data, small_bench.frozen(0)
    with pack_of(small_bench, [candidate], [weights]) as pack:
        found = unit_importance(pack, data, frozen, 2)[0]
        batches = list(itertools.islice(training_batches(data.train, 8, data.pad_id, small_bench.settings.seed, 0), 2))

        def losses(share: float) -> torch.Tensor:
            """Of both batches with unit 1 of LoRA, or of the adapter, larger by a share."""
            changed = dict(weights)
            for name, axis in (("A", 0), ("B", 1)):
                key = f"hybrid.layers.1.v.lora.{name}"
                changed[key] = weights[key].index_copy(axis, torch.tensor([1]),
                                                       weights[key].narrow(axis, 1, 1) * (1 + share))  # fmt: skip
            pack.load(0, changed)
            with torch.no_grad():
                return torch.stack([data.readout.loss(pack.forward(b, {}), b.labels)[0] for b in batches]).double()

        slope = (losses(0.02) - losses(-0.02)) / 0.04
    assert float(found["layers.1.v.lora"][1]) == pytest.approx(float(slope.abs().mean()), rel=0.02)
    assert float(found["layers.1.v.lora"][2]) == 0
    assert (found["layers.1.down.parallel"] > 0).all()


def test_cut_candidates_are_packed_and_trained_on(small_bench: Bench) -> None:
    shape, frozen = small_bench.backbone.shape, small_bench.frozen(0)
    hybrid = everywhere(make("lora", 4), make("sequential", 4), make("prefix", 3), make("ia3"))
    large = Candidate(hybrid, {"learning_rate": 1e-3})
    with pack_of(small_bench, [large], [_moved(small_bench, large)]) as pack:
        importance = unit_importance(pack, small_bench.data, frozen)[0]
        weights = pack.weights(0)
    total = hybrid.num_params(shape)
    cuts = [cut_hybrid(hybrid, weights, importance, int(total * share), shape) for share in (0.4, 0.1, 0.02, 0)]
    members = [large, *(Candidate(cut, {"learning_rate": 1e-3}) for cut, _ in cuts)]
    own = [weights, *(w for _, w in cuts)]
    assert len({len(m.hybrid.layers[2]) for m in members}) > 1
    batch = next(training_batches(small_bench.data.train, 8, small_bench.data.pad_id, 0, 1))

    def two_steps(pack: Pack) -> torch.Tensor:
        return torch.stack([pack.step(batch, {}, small_bench.data.readout) for _ in range(2)])

    def packed(ks: Sequence[int]) -> torch.Tensor:
        pack = Pack(small_bench.backbone, [members[k] for k in ks], small_bench.settings, None, 2)
        with pack:
            for k, i in enumerate(ks):
                pack.load(k, own[i])
                assert pack.weights(k).keys() == own[i].keys()
            return two_steps(pack)

    together = packed(range(len(members)))
    alone = torch.cat([packed([k]) for k in range(len(members))], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)
    assert len(set(together[0].tolist())) == len(members), "members are all alike"
