"""The one declaration of a method's weights: counts, bytes, padding, initial values and saving follow from it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    #: Draws initial values of a shape.
    Draw = Callable[[tuple[int, ...], torch.Generator], torch.Tensor]

Kind = Literal["trained", "frozen", "written", "state"]
#: How a file holds a weight: as it is, as bits, as the places of a mask's ones, or as the values at these places.
Storage = Literal["dense", "bits", "places", "values"]
#: What a trained candidate is kept with.
SAVED: tuple[Kind, ...] = ("trained", "frozen", "written")


@dataclass(frozen=True)
class Weight:
    """One tensor of a method at one place, without the candidate axis.

    `init` is "zeros", "ones", "kaiming" (uniform in +-1/sqrt(last dimension)), "normal" (of deviation `sd`),
    "vocabulary" (vectors of tokens that are drawn from the model's vocabulary; "normal" where there is no model) or a
    function of shape and generator. A "trained" weight is a parameter. A "frozen" one is a buffer that is saved with
    the candidate and not counted as trained; a "written" one is such a buffer that hooks of training write to; a
    "state" is a buffer for the time of training.
    `kept` says how many of the entries are trained, where a mask leaves others out; `bits` what an entry takes as
    stored.
    """

    shape: tuple[int, ...]
    init: str | Draw = "zeros"
    sd: float = 0.02
    kind: Kind = "trained"
    kept: int | None = None
    bits: float = 32

    @property
    def entries(self) -> int:
        """How many entries count: all, or those that a mask keeps."""
        return math.prod(self.shape) if self.kept is None else self.kept

    @property
    def storage(self) -> Storage:
        """How a file holds it: one bit an entry, or of what is `kept` the values and, of its mask, the places."""
        if self.bits == 1:
            return "bits"
        if self.kept is None:
            return "dense"
        return "values" if self.kind == "trained" else "places"

    @property
    def stored_bits(self) -> float:
        """Bits on disk."""
        return 0 if self.kind == "state" else self.entries * self.bits

    def draw(self, seed: int, *place: object, vocabulary: torch.Tensor | None = None) -> torch.Tensor:
        """Initial values, fp32 on the CPU, by the seed and the place alone: what stands elsewhere changes nothing.

        `vocabulary` [V, d]: the model's vectors of tokens.
        """
        import torch

        if self.init == "zeros":
            return torch.zeros(self.shape)
        if self.init == "ones":
            return torch.ones(self.shape)
        generator = generator_at(seed, *place)
        if callable(self.init):
            return self.init(self.shape, generator)
        if self.init == "vocabulary" and vocabulary is not None:
            tokens = torch.randint(len(vocabulary), self.shape[:1], generator=generator)
            if tokens.is_meta:
                # Weights are loaded afterwards.
                return torch.empty(self.shape)
            return vocabulary[tokens.to(vocabulary.device)].float().cpu()
        if self.init in ("normal", "vocabulary"):
            return torch.randn(self.shape, generator=generator) * self.sd
        if self.init == "kaiming":
            # Kaiming's with a = sqrt(5), as LoRA and nn.Linear draw it.
            bound = self.shape[-1] ** -0.5
            return torch.rand(self.shape, generator=generator) * (2 * bound) - bound
        raise ValueError(f"unknown initial values '{self.init}'")


def generator_at(seed: int, *place: object) -> torch.Generator:
    """A generator for one purpose: equal seeds and places give equal numbers, in any company."""
    import torch

    text = ":".join(str(part) for part in (seed, *place))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]))
