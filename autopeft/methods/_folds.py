"""What a method becomes when its training is over: a simpler one, or a part of the backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from autopeft.anatomy import ModelShape

if TYPE_CHECKING:
    import torch

    from autopeft.methods._base import Method


class Folds:
    """A part of every method; all of it optional."""

    #: True when a trained method folds into the backbone's weights, so that inference pays nothing.
    mergeable: ClassVar[bool] = False
    #: True when it only adds to its place's output what does not depend on it: such methods may change their order.
    adds: ClassVar[bool] = False
    #: True when several of it at one place are one larger one (`joined`, `join`).
    joins: ClassVar[bool] = False
    #: False when the folded form is larger than what is trained, so that it is exported as it is.
    exports_folded: ClassVar[bool] = True
    #: True when all that it changes is biases: its weight "bias" is added to that of its place.
    biases: ClassVar[bool] = False
    #: The type of stock PEFT that can hold it, alone or folded.
    peft_type: ClassVar[str | None] = None

    if TYPE_CHECKING:

        @property
        def label(self) -> str: ...

    def folded(self) -> Method:
        """The simplest method that computes the same when trained; itself where there is none simpler."""
        return cast("Method", self)

    def exported(self) -> Method:
        """The form in which it is exported."""
        return self.folded() if self.exports_folded else cast("Method", self)

    def fold(
        self,
        shape: ModelShape,
        place: str,
        weights: Mapping[str, torch.Tensor],
        shared: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Weights of `folded()` at a place that compute the same as `weights` of this method there."""
        return dict(weights)

    def as_bits(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Weights at a place that compute the same, in which what takes one bit (`Weight.bits`) is 0 or 1."""
        return weights

    def joined(self, methods: Sequence[Method]) -> Method:
        """The one method that `methods` of this kind at one place are together."""
        raise NotImplementedError(f"method '{self.label}' does not join")

    def join(self, methods: Sequence[Method], weights: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Weights of `joined(methods)` that compute the sum of what `methods` add."""
        raise NotImplementedError(f"method '{self.label}' does not join")

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The backbone's own `weight` [out, in] and `bias` [out] with the folded method in them.

        Of a norm `weight` is [d]; at `down_in` they are those of `down`. Asked of methods that are `mergeable`; the
        bias may be a new one. Methods that only add (`adds`) are given what was frozen, others what the methods before
        them made of it.
        """
        raise NotImplementedError(f"method '{self.label}' does not merge")
