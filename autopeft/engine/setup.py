"""How a search trains on its machine: measured once, when it starts, and kept with it."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field

from autopeft.attention import FUSED, MATMUL
from autopeft.config import Strict
from autopeft.engine.backbone import Precision
from autopeft.hybrid import Hybrid

Name = Literal["fp32", "bf16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ATTENTIONS = {"fused": FUSED, "matmul": MATMUL}
#: A search needs 1 + this x f times as many trials where a share f of them is in training at once, as nobody has
#: learned from those when the next are asked for: between 1 and 4, as simulated on the table of trained hybrids, for
#: shares up to a quarter, which is the most.
_BLIND, _MOST = 2.0, 0.25


class Setup(Strict):
    """Precision and attention of the backbone, candidates in a pack, and how fast a worker then is.

    A step of a pack takes about `seconds_per_step` a candidate, `seconds_per_place` for each place at which a method of
    it stands (`places_of`), and 1 second for each `flops_per_second` of `autopeft.engine.schedule`'s products: many
    small methods cost by their number. `milliseconds` are of one candidate's step, by what was tried.
    """

    device: str
    precision: Name
    attention: str = Field(pattern="^(fused|matmul)$")
    pack: int = Field(ge=1, le=1_024)
    flops_per_second: float = Field(gt=0)
    seconds_per_step: float = Field(ge=0)
    seconds_per_place: float = Field(0.0, ge=0)
    milliseconds: dict[str, float] = {}

    @classmethod
    def unmeasured(cls, device: str, precision: Precision) -> Self:
        """Of one candidate at a time, where nothing but precision and attention matters."""
        name: Name = "bf16" if precision.dtype is torch.bfloat16 else "fp32"
        attention = attention_name(precision)
        return cls(device=device, precision=name, attention=attention, pack=1, flops_per_second=1, seconds_per_step=0)

    @property
    def chosen(self) -> Precision:
        """For the backbone."""
        return precision_of(self.precision, self.attention)

    @property
    def words(self) -> str:
        """`training on cpu: fp32, matmul attention, packs of 4`."""
        return f"training on {self.device}: {self.precision}, {self.attention} attention, packs of {self.pack}"

    def seconds(self, flops: int, steps: int, places: int = 0) -> float:
        """Estimated seconds of a worker for a candidate's training."""
        each = self.seconds_per_step + places * self.seconds_per_place
        return flops / self.flops_per_second + steps * each

    def pack_of(self, trials: int, workers: int) -> int:
        """The size of packs, up to `pack`, that brings a search of so many trials by so many workers forward fastest.

        Large packs take less time a candidate, and small ones learn more from each other.
        """
        most = min(self.pack, math.ceil(_MOST * trials / workers))
        tried = {n: self.milliseconds.get(f"pack of {n}") for n in range(1, most + 1)}
        time = {n: each * (1 + _BLIND * n * workers / trials) for n, each in tried.items() if each is not None}
        return min(time, key=lambda n: time[n], default=most)


def places_of(hybrid: Hybrid) -> int:
    """At how many places its methods stand: sites of layers, and the model's input."""
    return len(hybrid.model) + sum(1 for _ in hybrid.placed())


def precision_of(precision: Name, attention: str) -> Precision:
    """`fp32` or `bf16`, `fused` or `matmul`."""
    return Precision(_DTYPES[precision], _ATTENTIONS[attention])


def attention_name(precision: Precision) -> str:
    """`fused` or `matmul`."""
    return next(name for name, function in _ATTENTIONS.items() if function == precision.attention)
