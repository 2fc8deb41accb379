"""Prompt tuning: learned vectors before those of the text. Lester et al. 2021, section 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._prompt import SoftPrompt
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class PromptTuning(SoftPrompt):
    """`length` learned vectors among those that the text's tokens are looked up as.

    They begin as the vectors of tokens that are drawn from the whole vocabulary.
    """

    name: ClassVar[str] = "prompt_tuning"
    description: ClassVar[str] = "learned vectors before those of the text (Lester et al. 2021)"
    paper: ClassVar[str] = "Lester et al. 2021, section 2"
    formula: ClassVar[str] = "l d a model"
    usual_rate: ClassVar[float] = 0.02
    usual: ClassVar[Mapping[str, Any]] = {"length": 20}
    stage: ClassVar[int] = 0
    unit_axes: ClassVar[Mapping[str, int] | None] = {"prompt": 0}

    length: int
    sites: tuple[str, ...] = ("input",)

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """The vectors [l, d]."""
        return {"prompt": Weight((self.length, shape.width(place)[0]), "vocabulary")}

    def prompt(self, bank: Bank) -> torch.Tensor:
        """The vectors themselves."""
        return bank.weight("prompt")
