"""Multitask prompt tuning: a prompt times a matrix of low rank. Wang et al. 2023, equation 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Method
from autopeft.methods._prompt import SoftPrompt
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class MPT(SoftPrompt):
    """P * (U V): a prompt P [l, d], which tasks share in the paper, and the task's own factors U [l, r] and V [r, d].

    Here one task trains all of them. Ones in the first direction make it begin as P. Folded, it is a prompt.
    """

    name: ClassVar[str] = "mpt"
    description: ClassVar[str] = "a prompt times a matrix of low rank (Wang et al. 2023)"
    paper: ClassVar[str] = "Wang et al. 2023, equation 2"
    formula: ClassVar[str] = "l d + r (l + d) a model; kept: l d"
    usual_rate: ClassVar[float] = 0.02
    usual: ClassVar[Mapping[str, Any]] = {"length": 20}
    stage: ClassVar[int] = 2
    unit_axes: ClassVar[Mapping[str, int] | None] = {"prompt": 0, "left": 0}

    length: int
    sites: tuple[str, ...] = ("input",)
    rank: int = 1

    def __post_init__(self) -> None:
        """Check the rank too."""
        super().__post_init__()
        self._check_count("rank")

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """P [l, d], U [l, r] and V [r, d]."""
        wide = shape.width(place)[0]
        return {
            "prompt": Weight((self.length, wide), "vocabulary"),
            "left": Weight((self.length, self.rank), partial(_ones_first, 1)),
            "right": Weight((self.rank, wide), partial(_ones_first, 0)),
        }

    def bank_options(self) -> tuple[tuple[str, Any], ...]:
        """One bank has one rank."""
        return (("rank", self.rank),)

    def fixed_flops(self, shape: ModelShape, site: str) -> int:
        """The product of the factors."""
        return 2 * self.length * self.rank * shape.width(site)[0]

    def prompt(self, bank: Bank) -> torch.Tensor:
        """The products."""
        return bank.weight("prompt") * (bank.weight("left") @ bank.weight("right"))

    def folded(self) -> Method:
        """A prompt of the same length."""
        from autopeft.methods.prompt_tuning import PromptTuning

        return PromptTuning(self.length, self.sites)

    def fold(
        self, shape: ModelShape, place: str, weights: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The product."""
        return {"prompt": weights["prompt"] * (weights["left"] @ weights["right"])}


def _ones_first(axis: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Little numbers, but ones in the first direction of the rank, which is that axis."""
    import torch

    drawn = torch.randn(shape, generator=generator) * 0.02
    drawn.select(axis, 0).fill_(1.0)
    return drawn
