"""What methods share that put learned vectors to a text."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from autopeft.anatomy import INPUT, ModelShape
from autopeft.methods._base import Kin, Method, MethodFlops

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


class SoftPrompt(Method):
    """`length` learned vectors among those that the text's tokens are looked up as.

    They stand before the text of a causal model, and after the first token of another, whose head reads that token.
    """

    family: ClassVar[Kin] = "additive"
    size: ClassVar[str] = "length"
    allowed_sites: ClassVar[tuple[str, ...]] = (INPUT,)
    zero_init: ClassVar[bool] = False
    peft_type: ClassVar[str | None] = "PROMPT_TUNING"

    length: int

    @abstractmethod
    def prompt(self, bank: Bank) -> torch.Tensor:
        """The vectors [K, l, d]; what stands in a candidate's padding does not matter."""

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Nothing by tokens of its own: all layers have more of them (see `input_tokens`)."""
        return MethodFlops(0, 0, 0)

    def input_tokens(self) -> int:
        """One a learned vector."""
        return self.length
