"""Candidates in the middle of their training, taken out of one pack and put into another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch

from autopeft.attaching import Parts
from autopeft.engine.optimizer import PackedAdamW


@dataclass(frozen=True)
class Saved:
    """One candidate's weights by name, each with its first and second moment where it is trained."""

    parts: Mapping[str, tuple[torch.Tensor, ...]]

    @classmethod
    def of(cls, parts: Parts, optimizer: PackedAdamW) -> Self:
        """Copies of them."""
        return cls({n: tuple(t.detach()[at].clone() for t in _all(w, optimizer)) for n, (w, at) in parts.items()})

    @torch.no_grad()
    def restore(self, parts: Parts, optimizer: PackedAdamW) -> None:
        """Write them where the candidate is now."""
        for name, (weight, at) in parts.items():
            for target, source in zip(_all(weight, optimizer), self.parts[name], strict=True):
                target[at] = source


def _all(weight: torch.Tensor, optimizer: PackedAdamW) -> tuple[torch.Tensor, ...]:
    return (weight, *optimizer.moments(weight)) if weight in optimizer else (weight,)
