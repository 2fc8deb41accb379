"""Calls the hooks of the methods in a pack; the trainer knows no method.

Shapes: K candidates, B examples, C outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import nn

from autopeft.attaching import Banks
from autopeft.engine.data import Batch
from autopeft.engine.entrances import States
from autopeft.hybrid import Hybrid
from autopeft.methods import Method
from autopeft.methods._bank import SHARED, Bank
from autopeft.methods._procedure import HOOKS, defines
from autopeft.methods._weights import generator_at

#: The training batches from the first on, without end, each with the frozen inputs of the layers that are entered.
Batches = Callable[[], Iterator[tuple[Batch, States]]]


class Generators(Sequence[torch.Generator]):
    """One generator a candidate, made when it is asked for, by a seed and a place.

    Equal seeds and places give equal numbers, whoever else is in the pack. All are on the CPU: a draw is the same on
    every device.
    """

    def __init__(self, seeds: Sequence[int], *place: object) -> None:
        self._seeds, self._place = seeds, place
        self._made: dict[int, torch.Generator] = {}

    def __len__(self) -> int:
        return len(self._seeds)

    @overload
    def __getitem__(self, k: int) -> torch.Generator: ...
    @overload
    def __getitem__(self, k: slice) -> list[torch.Generator]: ...

    def __getitem__(self, k: int | slice) -> torch.Generator | list[torch.Generator]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        k = range(len(self))[k]
        if k not in self._made:
            self._made[k] = generator_at(self._seeds[k], *self._place)
        return self._made[k]


@dataclass(frozen=True)
class Moment:
    """Where the training is: `step` (from 0) of `steps`, both of the phase and not of the whole training.

    `generators` has one generator for each candidate of the pack, seeded by the training's seed, the step, the method
    and the hook: equal alone and packed. With `twice`, `forward` says which of the step's two passes comes, 0 or 1.
    """

    step: int
    steps: int
    generators: Sequence[torch.Generator]
    phase: int = 0
    forward: int = 0


@dataclass(frozen=True)
class At:
    """A step as the pack counts it."""

    phase: int
    step: int
    steps: int
    forward: int = 0


class Gradients:
    """Gradients over the training batches that come, for `Method.prepare`."""

    def __init__(
        self,
        add_up: Callable[[Batch, States], object],
        parameters: Sequence[nn.Parameter],
        batches: Iterator[tuple[Batch, States]],
    ) -> None:
        self._add_up, self._parameters, self._batches = add_up, parameters, batches

    @torch.enable_grad()
    def __call__(self, count: int) -> None:
        """Put the mean over the next `count` batches into each weight's `.grad`."""
        self.forget()
        for batch, states in itertools.islice(self._batches, count):
            self._add_up(batch, states)
        torch._foreach_div_([p.grad for p in self._parameters if p.grad is not None], count)

    def forget(self) -> None:
        """No weight has a gradient any more."""
        for parameter in self._parameters:
            parameter.grad = None


class Procedures:
    """The hooks of all methods on the banks of a pack, class by class in the order of the methods' names."""

    def __init__(self, banks: Banks, hybrids: Sequence[Hybrid], seeds: Sequence[int]) -> None:
        self._hybrids, self._seeds = hybrids, seeds
        by_class: dict[type[Method], list[Bank]] = {}
        for _, bank in banks.named_banks():
            if bank.site != SHARED:
                by_class.setdefault(type(bank.method), []).append(bank)
        for own in by_class.values():
            own.sort(key=_in_order)
        ordered = sorted(by_class, key=lambda method: method.name)
        self._hooks = {
            hook: [(method, by_class[method]) for method in ordered if defines(method, hook)] for hook in HOOKS
        }

    def call(self, hook: str, at: At | None = None) -> None:
        """Call a hook of each method that has it, with the moment where a step is given."""
        for method, banks in self._hooks[hook]:
            moment = () if at is None else (self._moment(method, hook, at),)
            with torch.no_grad():
                getattr(method, hook)(banks, *moment)

    def _moment(self, method: type[Method], hook: str, at: At) -> Moment:
        generators = Generators(self._seeds, method.name, hook, at.phase, at.step, at.forward)
        return Moment(at.step, at.steps, generators, at.phase, at.forward)

    def penalise(self) -> None:
        """Add the gradients of the candidates' penalties to those of their losses."""
        found = [self._own(method, method.penalty(banks)) for method, banks in self._hooks["penalty"]]
        for penalty in found:
            if penalty is not None:
                penalty.sum().backward()

    def pair_loss(self, first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum of the methods' losses of two passes, [K]."""
        total = first.new_zeros(len(first))
        for method, banks in self._hooks["pair_loss"]:
            own = self._own(method, method.pair_loss(banks, first, second, labels))
            total = total if own is None else total + own
        return total

    @torch.no_grad()
    def prepare(self, gradients: Callable[[], Gradients]) -> None:
        """Prepare each method, with gradients that begin at the first batch for each."""
        for method, banks in self._hooks["prepare"]:
            given = gradients()
            method.prepare(banks, given)
            given.forget()

    def _own(self, method: type[Method], values: torch.Tensor | None) -> torch.Tensor | None:
        """Values [K], zero for candidates that lack the method."""
        if values is None:
            return None
        has = [any(type(m) is method for m in hybrid.methods()) for hybrid in self._hybrids[: len(values)]]
        return torch.where(torch.tensor(has, device=values.device), values, 0)


def _in_order(bank: Bank) -> tuple[int, int, str]:
    """Where a bank stands among those of its class, in any company: draws for one after the other are then the same."""
    layer = -1 if bank.layer is None else bank.layer
    return layer, bank.method.allowed_sites.index(bank.site), str(bank.method.bank_options())
