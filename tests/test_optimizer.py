"""One optimizer for a pack is torch's own AdamW, clipping and schedule for each of its candidates.

Shapes: K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import nn

from autopeft.engine.optimizer import PackedAdamW, Rates

STEPS = 40
RATES = [Rates(1e-2, 0.1, 0.3, 0.5), Rates(1e-3, 0.0, 0.0, 1e6), Rates(0.1, 0.5, 0.06, 1e-3)]
#: The second parameter belongs to the first two candidates only: banks of a layer below the start of the third.
SHAPES = [(3, 4, 5), (2, 7), (3, 1)]
#: By parameter, learning rates in the place of the candidates'.
PEAKS = {1: [5e-2, 5e-3, 0.5], 2: [3e-3] * 3}


def gradients(step: int) -> list[torch.Tensor]:
    """Of very different sizes: clipped at some steps, and not at others."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) * 10 ** (step % 5 - 3) for shape in SHAPES]


def start(candidates: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(99)
    return [torch.randn(shape, generator=generator)[:candidates] for shape in SHAPES]


def reference(k: int, values: list[torch.Tensor], peaks: Mapping[int, Sequence[float]]) -> list[list[torch.Tensor]]:
    """Candidate k's own parameters after each step, by torch alone; `peaks`: learning rates of some of them."""
    there = {i: nn.Parameter(v[k].clone()) for i, v in enumerate(values) if k < len(v)}
    own, rates, history = list(there.values()), RATES[k], []
    groups = [{"params": [p]} | ({"lr": peaks[i][k]} if i in peaks else {}) for i, p in there.items()]
    optimizer = torch.optim.AdamW(groups, lr=rates.learning_rate, weight_decay=rates.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates.factor(step, STEPS))
    for step in range(STEPS):
        for parameter, g in zip(own, [g[k] for g in gradients(step) if k < len(g)], strict=True):
            parameter.grad = g.clone()
        nn.utils.clip_grad_norm_(own, rates.max_grad_norm)
        optimizer.step()
        schedule.step()
        history.append([p.detach().clone() for p in own])
    return history


@pytest.mark.parametrize("peaks", [{}, PEAKS], ids=["one rate", "rates of weights"])
@pytest.mark.parametrize("candidates", [1, 3])
def test_each_candidate_is_trained_by_adamw_with_its_own_rates(
    candidates: int, peaks: Mapping[int, Sequence[float]]
) -> None:
    values = start(candidates)
    expected = [reference(k, values, peaks) for k in range(candidates)]
    packed = [nn.Parameter(v.clone()) for v in values]
    optimizer = PackedAdamW(packed, RATES[:candidates], STEPS, {packed[i]: r[:candidates] for i, r in peaks.items()})
    for step in range(STEPS):
        for parameter, gradient in zip(packed, gradients(step), strict=True):
            parameter.grad = gradient[: len(parameter)].clone()
        optimizer.step()
        assert all(p.grad is None for p in packed)
        for k in range(candidates):
            own = [p.detach()[k] for p in packed if k < len(p)]
            for value, other in zip(own, expected[k][step], strict=True):
                torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6)
    moved = [(p.detach() - v).abs().min().item() for p, v in zip(packed, values, strict=True)]
    assert min(moved) > 1e-4


def test_parameters_start_as_they_were_and_padding_stays_zero() -> None:
    padded = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    before = padded.detach().clone()
    optimizer = PackedAdamW([padded], RATES[:2], STEPS)
    assert torch.equal(padded.detach(), before)
    for _ in range(STEPS):
        padded.grad = torch.tensor([[1.0, -1.0], [0.5, 0.0]])
        optimizer.step()
    assert padded[1, 1] == 0
    assert not torch.isclose(padded, before)[[0, 0, 1], [0, 1, 0]].any()


def test_moments_are_those_of_the_parameter() -> None:
    packed = [nn.Parameter(v) for v in start(3)]
    optimizer = PackedAdamW(packed, RATES, STEPS)
    given = gradients(0)
    for parameter, gradient in zip(packed, given, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()
    for k, rates in enumerate(RATES):
        norm = torch.cat([g[k].flatten() for g in given if k < len(g)]).norm()
        clipped = min(1.0, rates.max_grad_norm / (norm.item() + 1e-6))
        for parameter, gradient in zip(packed, given, strict=True):
            if k < len(parameter):
                first, second = optimizer.moments(parameter)
                torch.testing.assert_close(first[k], 0.1 * clipped * gradient[k], rtol=1e-4, atol=1e-9)
                torch.testing.assert_close(second[k], 1e-3 * (clipped * gradient[k]) ** 2, rtol=1e-4, atol=1e-12)
