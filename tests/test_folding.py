"""Folded hybrids compute the same, in simpler methods."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_folded import FAMILIES, MODELS, logits, trained
from tiny_models import LAYERS, METHOD_NAMES, in_layers, make, sized

from autopeft.anatomy import ModelShape, shape_of
from autopeft.attaching import Attachment
from autopeft.budget import Budget
from autopeft.costs.kept_params import KeptParams
from autopeft.costs.stored_bytes import StoredBytes
from autopeft.folding import exported, fold, folded
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, Method, Weight
from autopeft.methods.adalora import AdaLoRA
from autopeft.methods.adamix import AdaMix
from autopeft.methods.compacter import Compacter
from autopeft.methods.hadamard import Hadamard
from autopeft.methods.increlora import IncreLoRA
from autopeft.methods.lora import LoRA
from autopeft.methods.sequential import Sequential
from autopeft.methods.vera import VeRA
from autopeft.searching.known_cost.points import Points
from autopeft.space import SearchSpace


def check(family: str, hybrid: Hybrid) -> Hybrid:
    """The folded hybrid, which gives the same logits; so does the form that is exported."""
    weights, expected = trained(family, hybrid)
    for form in ("exported", "folded"):
        new, own = fold(hybrid, weights, shape_of(MODELS[family]), form)
        assert own.keys() == weights.keys() if new is hybrid else own.keys() != weights.keys()
        assert (logits(family, new, own) - expected).abs().max() < 2e-6 * expected.abs().max()
    assert new == folded(hybrid)
    return new


@pytest.mark.parametrize("name", METHOD_NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_folds_to_what_computes_the_same(name: str, family: str) -> None:
    small, large = (make(name, size) for size in sized(METHODS.get(name)))
    hybrid = in_layers({0: [small], 2: [large]})
    new = check(family, hybrid)
    assert new == in_layers({0: [small.folded()], 2: [large.folded()]})
    assert (new == hybrid) == (small.folded() == small)


def test_low_rank_methods_at_one_place_become_one() -> None:
    low_rank = [VeRA(3, ("q", "v"), 0.5), LoRA(2, ("q",), 3.0), AdaLoRA(4, ("q", "k"), 2.0)]
    hybrid = Hybrid.from_layers(LAYERS, {0: low_rank, 1: [VeRA(5)], 2: [LoRA(1)]})
    new = check("gpt2", hybrid)
    assert set(new.layers[0]) == {LoRA(9, ("q",)), LoRA(4, ("k",), 2.0), LoRA(3, ("v",), 0.5)}
    # VeRA's own form is the smaller one.
    small = exported(hybrid)
    assert set(small.layers[0]) == {VeRA(3, ("q", "v"), 0.5), LoRA(6, ("q",)), LoRA(4, ("k",), 2.0)}


def test_what_does_not_join_stays_as_it_is() -> None:
    adapters = [Sequential(3, ("o", "down")), Compacter(4, ("down",))]
    hybrid = Hybrid.from_layers(LAYERS, {0: adapters, 1: [Compacter(8, ("o", "down"))]})
    new = check("bert", hybrid)
    assert new.layers[0] == hybrid.layers[0]
    # What is left shares what a smaller one needs.
    assert new.layers[1] == (Sequential(8, ("o", "down"), "gelu"),)


def test_a_method_does_not_fold_past_one_that_scales() -> None:
    hybrid = Hybrid.uniform(LAYERS, Hadamard(1), IncreLoRA(3, ("q", "o")), AdaLoRA(2, ("o",)))
    new = check("llama", hybrid)
    assert set(new.layers[0]) == {LoRA(2, ("o",)), Hadamard(1), IncreLoRA(3, ("o",)), LoRA(3, ("q",))}


def test_what_is_shared_has_a_name_for_each_of_its_kinds() -> None:
    kinds = {0: [Compacter(4, ("o",), n=2)], 1: [Compacter(4, ("down",), n=4)], 2: [Sequential(3)]}
    weights, _ = trained("bert", Hybrid.from_layers(LAYERS, kinds))
    shared = {name: tuple(w.shape) for name, w in weights.items() if name.startswith("shared")}
    assert shared == {"shared.compacter.A": (2, 2, 2), "shared.compacter1.A": (4, 4, 4)}
    check("bert", Hybrid.from_layers(LAYERS, kinds))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_stored_bytes_are_those_of_what_is_exported(name: str) -> None:
    small, large = (make(name, size) for size in sized(METHODS.get(name)))
    hybrid, shape = in_layers({0: [small], 2: [large]}), shape_of(MODELS["bert"])
    with Attachment(MODELS["bert"], hybrid) as attached:
        new, own = fold(hybrid, attached.banks.weights(), shape, "exported")
    assert new == exported(hybrid)
    declared = _all_weights(small, shape)
    if all(weight.bits == 32 and weight.kept is None for weight in declared):
        assert StoredBytes().of(hybrid, shape, 8) == sum(4 * tensor.numel() for tensor in own.values())
    if all(weight.kind == "trained" for weight in declared):
        assert KeptParams().of(hybrid, shape, 8) == sum(tensor.numel() for tensor in own.values())


def test_what_others_keep_from_being_folded_is_counted_as_it_is() -> None:
    """Experts beside an adapter at one place stay experts; alone they are one."""
    hybrid = in_layers({0: [AdaMix(3, ("o", "down")), Sequential(2, ("down",))], 2: [AdaMix(3)]})
    shape = shape_of(MODELS["bert"])
    with Attachment(MODELS["bert"], hybrid) as attached:
        _, own = fold(hybrid, attached.banks.weights(), shape, "exported")
    assert KeptParams().of(hybrid, shape, 8) == sum(tensor.numel() for tensor in own.values())
    assert StoredBytes().of(hybrid, shape, 8) == sum(4 * tensor.numel() for tensor in own.values())
    assert KeptParams().adds_up(in_layers({0: [AdaMix(3), Sequential(2, ("o",))]}), shape)
    block = {"bottleneck": [0, 2, 3], "sites": ["down"]}
    space = SearchSpace.load({"blocks": {"adamix": block, "sequential": block}}, shape)
    points, rng = Points(space, Budget(), (KeptParams.name, StoredBytes.name)), np.random.default_rng(0)
    drawn = [space.random_point(rng) for _ in range(20)]
    for point, costs in zip(drawn, points.costs(np.stack([points.row(p) for p in drawn])), strict=True):
        one = space.hybrid(point)
        assert costs.tolist() == [KeptParams().of(one, shape, 8), StoredBytes().of(one, shape, 8)]


def _all_weights(method: Method, shape: ModelShape) -> list[Weight]:
    """Those of the form that is exported."""
    form = method.exported()
    places = [weight for place in form.places(shape) for weight in form.weights(shape, place).values()]
    return [*places, *form.shared(shape).values()]
