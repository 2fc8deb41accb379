"""LoftQ's beginning is nearer to the fp32 model than that of LoRA on a quantised backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_quantised import KINDS, quantised
from tiny_task import classes

from autopeft.anatomy import Rows, layers_of
from autopeft.models import find_model
from autopeft.quantising import Kind, kind_of
from autopeft.quantising.loftq import loftq, low_rank
from autopeft.quantising.weights import dequantised


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.values[0] != "int8"])
@pytest.mark.parametrize(
    ("family", "name", "ranks"), [("bert", "intermediate.dense", {0: 8}), ("gpt2", "attn.c_attn", {0: 4, 2: 8})]
)
def test_the_residual_falls_over_the_rounds(
    kind: Kind, family: str, name: str, ranks: dict[int, int], tmp_path: Path
) -> None:
    source = quantised(tmp_path / "model", kind, family)
    plain, model = (s.model(classes(3), torch.float32) for s in (find_model(source.location), source))
    weight = dequantised(layers_of(plain)[0].get_submodule(name))
    module = layers_of(model)[0].get_submodule(name)
    size = len(weight) if len(ranks) == 1 else len(weight) // 3
    places = {Rows(i * size, size, len(weight)): rank for i, rank in ranks.items()}
    before = float((weight - dequantised(module)).norm() / weight.norm())
    factors, residuals = loftq(module, weight, places)
    assert len(residuals) == 6
    assert residuals[0] == pytest.approx(before, rel=1e-5)
    # The first round is an SVD of the rounding alone; the others go further.
    assert residuals[1] < 0.95 * residuals[0]
    assert residuals[5] < residuals[3] < residuals[1]
    assert kind_of(module) == kind
    change = low_rank(factors, weight)
    rest = float((weight - dequantised(module) - change).norm() / weight.norm())
    assert rest == pytest.approx(residuals[-1], rel=1e-5)
    assert {rows: b.shape[1] for rows, (_, b) in factors.items()} == places
    x = torch.randn(3, weight.shape[1])
    torch.testing.assert_close(module(x) - module(0 * x), x @ dequantised(module).T, rtol=1e-4, atol=1e-5)
