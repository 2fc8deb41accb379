"""Trained hybrids are cut to some of their units: what is left computes what it did, and fits the limit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_folded import INPUTS, MODELS, logits, trained
from tiny_models import LAYERS, METHOD_NAMES, everywhere, in_layers, make, sized

from autopeft.anatomy import shape_of
from autopeft.attaching import Attachment
from autopeft.cutting import Options, canonical, chosen, cut_hybrid, sites_of
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, Method
from autopeft.methods._units import Units

FAMILIES = ["bert", "llama"]
Weights = dict[str, torch.Tensor]
#: Methods of which a unit takes part when its weights are zero: attention sees its column.
COLUMNS = ["mpt", "p_tuning", "prefix", "prompt_tuning"]


def units_of(method: Method, shape: Any, place: str | None = None) -> Units | None:
    return method.units(shape, place or method.places(shape)[0])


def named(weights: Mapping[str, torch.Tensor]) -> Weights:
    return {f"hybrid.{name}": w for name, w in weights.items()} | {"head.classifier.bias": torch.ones(3)}


def output(family: str, hybrid: Hybrid, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    own = {n.removeprefix("hybrid."): w for n, w in weights.items() if n.startswith("hybrid.")}
    return logits(family, hybrid, own)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def random_importance(hybrid: Hybrid, shape: Any, seed: int = 0) -> Weights:
    generator, found = torch.Generator().manual_seed(seed), {}
    for site in sites_of(hybrid, shape):
        if units := site.method.units(shape, site.place):
            found[site.name] = torch.rand(units.count, generator=generator)
    return found


def only(hybrid: Hybrid, weights: Mapping[str, torch.Tensor], small: Weights, cut: Hybrid, shape: Any) -> Weights:
    """The large hybrid's weights with zeros in the units that were cut."""
    there = {site.name: site.method for site in sites_of(cut, shape)}
    found = dict(weights)
    for site in sites_of(hybrid, shape):
        for name, axis in site.method.unit_axes.items():
            key = f"hybrid.{site.name}.{name}"
            mine = small[key] if site.name in there else weights[key].narrow(axis, 0, 0)
            columns = weights[key].movedim(axis, 0)
            is_left = [any(torch.equal(c, m) for m in mine.movedim(axis, 0)) for c in columns]
            found[key] = (columns * torch.tensor(is_left)[(..., *[None] * (columns.dim() - 1))]).movedim(0, axis)
        for name in weights:
            if site.name not in there and name.startswith(f"hybrid.{site.name}."):
                found[name] = torch.zeros_like(weights[name])
    return found


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_debug(name):
    for family in FAMILIES:
        shape = shape_of(MODELS[family])
        cls = METHODS.get(name)
        hybrid = everywhere(make(name, sized(cls)[1]))
        m = next(hybrid.methods())
        units = [(p, m.units(shape, p)) for p in m.places(shape)]
        print(name, family, units)
        if not units[0][1]: continue
        weights, before = trained(family, hybrid)
        weights = named(weights)
        same = canonical(hybrid, weights, shape)
        print("canonical", apart(output(family, hybrid, same), before))
        assert apart(output(family, hybrid, same), before) < 1e-6
        total = hybrid.num_params(shape)
        for share in (0.9, 0.5, 0.1, 0.0):
            small, w = cut_hybrid(hybrid, same, random_importance(hybrid, shape), int(total*share), shape)
            print(share, total, small.num_params(shape), small.describe())
            assert small.num_params(shape) <= total*share
            assert small.num_params(shape) == sum(s.method.units(shape, s.place).params(s.method.size_value) for s in sites_of(small, shape))
            out = output(family, small, w)
            if name not in COLUMNS:
                assert apart(out, output(family, hybrid, only(hybrid, same, w, small, shape))) < 1e-6
