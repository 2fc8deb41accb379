"""AdamW over K candidates at once, each with its own learning rate, schedule and clipping.

Shapes: K candidates, P weights of the largest of them with its padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import nn

from autopeft.engine.settings import TrainingSettings

#: Of Adam, for all that is trained.
BETAS, EPSILON = (0.9, 0.999), 1e-8
_BETA1, _BETA2 = BETAS


@dataclass(frozen=True)
class Rates:
    """What the candidate itself sets, over the experiment's settings."""

    learning_rate: float
    weight_decay: float
    warmup: float
    max_grad_norm: float

    @classmethod
    def of(cls, settings: TrainingSettings, chosen: Mapping[str, float]) -> Rates:
        """The settings with the candidate's own values in their place."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: float(chosen.get(name, getattr(settings, name))) for name in names})

    def factor(self, step: int, steps: int) -> float:
        """Share of the learning rate at `step` of `steps`: linear warm-up, then linear decay to zero."""
        rising = self.warmup * steps
        if step < rising:
            return (step + 1) / (rising + 1)
        return (steps - step) / max(1.0, steps - rising)


class PackedAdamW:
    """Loshchilov and Hutter 2019, algorithm 2, row by row of one matrix [K, P].

    The parameters [k_i, ...] (k_i <= K, candidates in the same order) become views of that matrix, and their gradients
    are gathered into another: a step is a dozen operations however many parameters there are, and a candidate's
    clipping norm is its row's. Zero padding has zero gradients, so it stays zero.

    `own` has, by parameter, K learning rates that stand in the place of the candidates' in its columns; as in torch's
    groups of parameters, decay is the rate's own multiple, and warm-up and linear decay are the candidate's.

    `done` counts the steps.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        rates: Sequence[Rates],
        steps: int,
        own: Mapping[nn.Parameter, Sequence[float]] | None = None,
    ) -> None:
        self.done, self._spans = 0, _laid_out(parameters)
        device = parameters[0].device if parameters else None
        width = max((end for _, end in self._spans.values()), default=0)
        self._values, self._gradients, self._first, self._second = (
            torch.zeros(len(rates), width, device=device) for _ in range(4)
        )
        for parameter in parameters:
            view = self._view(self._values, parameter)
            view.copy_(parameter.detach())
            parameter.data = view
        self._decays = self._column([r.weight_decay for r in rates])
        self._limits = self._column([r.max_grad_norm for r in rates])
        # All steps' rates at once: a number sent to a GPU at each step would make the host wait for it.
        peaks = [1.0 if own else r.learning_rate for r in rates]
        table = [[p * r.factor(step, steps) for p, r in zip(peaks, rates, strict=True)] for step in range(steps)]
        self._table = torch.tensor(table, device=device)[..., None]
        self._peaks = self._by_column([r.learning_rate for r in rates], own) if own else None

    @torch.no_grad()
    def step(self) -> None:
        """Clip each candidate's gradient, update its weights, and forget the gradients."""
        if not self._spans:
            self.done += 1
            return
        self._gather()
        gradients, rates = self._gradients, self._table[self.done]
        if self._peaks is not None:
            rates = rates * self._peaks
        self.done += 1
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        gradients.mul_((self._limits / (norms + 1e-6)).clamp_(max=1))
        self._first.lerp_(gradients, 1 - _BETA1)
        self._second.mul_(_BETA2).addcmul_(gradients, gradients, value=1 - _BETA2)
        self._values.mul_(1 - rates * self._decays)
        scale = math.sqrt(1 - _BETA2**self.done)
        denominator = self._second.sqrt().div_(scale).add_(EPSILON)
        self._values.addcdiv_(self._first * (rates / (1 - _BETA1**self.done)), denominator, value=-1)

    def _gather(self) -> None:
        found = [(p, p.grad) for p in self._spans if p.grad is not None]
        if len(found) < len(self._spans):
            self._gradients.zero_()
        torch._foreach_copy_([self._view(self._gradients, p) for p, _ in found], [g for _, g in found])
        for parameter, _ in found:
            parameter.grad = None

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return tensor in self._spans

    def moments(self, parameter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First and second moments of a parameter, views of its shape."""
        return self._view(self._first, parameter), self._view(self._second, parameter)

    def take_over(self, other: PackedAdamW) -> None:
        """Go on at the step where `other` is."""
        self.done = other.done

    def _view(self, matrix: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        start, end = self._spans[parameter]
        return matrix[: parameter.shape[0], start:end].view(parameter.shape)

    def _by_column(self, rates: Sequence[float], own: Mapping[nn.Parameter, Sequence[float]]) -> torch.Tensor:
        """The learning rate of each weight, [K, P]."""
        found = self._column(rates).repeat(1, self._values.shape[1])
        for parameter, values in own.items():
            start, end = self._spans[parameter]
            found[:, start:end] = self._column(values)
        return found

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=self._values.device)[:, None]


def _laid_out(parameters: Sequence[nn.Parameter]) -> dict[torch.Tensor, tuple[int, int]]:
    """The columns of each parameter, one after another."""
    spans: dict[torch.Tensor, tuple[int, int]] = {}
    free = 0
    for parameter in parameters:
        spans[parameter] = (free, free + math.prod(parameter.shape[1:]))
        free = spans[parameter][1]
    return spans
