"""How a method is trained, where that differs from descending its loss: hooks that the trainer calls.

Shapes: K candidates of a pack, B examples, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from autopeft.engine.procedures import Moment
    from autopeft.methods._bank import Bank

#: The hooks that the trainer calls where a method defines them, and not otherwise.
HOOKS = (
    "prepare", "before_step", "penalty", "pair_loss", "after_backward", "after_step", "end_phase", "before_measure"
)  # fmt: skip


class Procedure:
    """The hooks of a method, all optional; by default nothing is done.

    Hooks are class methods: `banks` are all banks of the method's class in a pack, one a place, lowest layer first and
    a layer's in the order of the method's sites (a bank of a low layer may hold the first candidates of the pack only).
    What a model has once is their `shared`. Hooks that change weights do so in place, and without gradients. Between
    two steps only weights are kept, those of the kinds frozen and state included: an attribute of a bank is lost when a
    candidate is sliced out of the pack. A bank that no hook has seen must work, as exported networks do.

    Invariant: what a hook does for a candidate depends on that candidate alone. So means are taken over the banks that
    the candidate has, and random numbers come from `moment.generators`, one draw for each of these banks.
    """

    #: Shares of the training, in order, that add up to 1. Each phase has an optimiser and a schedule of its own.
    phases: ClassVar[tuple[float, ...]] = (1.0,)
    #: True for two forward passes a step, which `pair_loss` compares.
    twice: ClassVar[bool] = False
    #: The most candidates that are trained at once, for methods that take much memory.
    max_pack: ClassVar[int | None] = None
    #: The share of the training in which the scores do not foretell the last one, so that no candidate is stopped.
    judged_from: ClassVar[float] = 0.0

    def company(self) -> Hashable | None:
        """Candidates whose methods give other values (None left out) never share a pack."""
        return None

    @classmethod
    def prepare(cls, banks: Sequence[Bank], gradients: Callable[[int], None]) -> None:
        """Called once, before the first step. Weights require gradients.

        `gradients(n)` runs the next n training batches and leaves the mean over them in each weight's `.grad`, in place
        of what was there. Nothing is trained.
        """

    @classmethod
    def before_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
        """Called before the forward pass of each step.

        With `twice` it is called before each forward pass, of which there are more where a batch goes through in parts:
        it then depends on `moment` alone, and puts new tensors in the place of those that the first pass has read.
        """

    @classmethod
    def penalty(cls, banks: Sequence[Bank]) -> torch.Tensor | None:
        """What is added to the loss of each candidate once a step, [K]; not part of the loss that is reported."""

    @classmethod
    def pair_loss(
        cls, banks: Sequence[Bank], first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor | None:
        """With `twice`: what is added to the loss of the first pass, [K], a mean over the examples.

        `first` and `second` are the outputs of the two passes, [K, B, C] (or [K, B, L, C], of tokens, of which those
        without a label, padding among them, do not count); `labels` are those of the batch, as `Readout.loss` has them.
        """

    @classmethod
    def after_backward(cls, banks: Sequence[Bank], moment: Moment) -> None:
        """Called when the weights' `.grad` are there (or None), before they are clipped."""

    @classmethod
    def after_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
        """Called when the weights have been updated."""

    @classmethod
    def end_phase(cls, banks: Sequence[Bank]) -> None:
        """Called between two phases, at the end of an epoch, before the optimiser is made anew."""

    @classmethod
    def before_measure(cls, banks: Sequence[Bank]) -> None:
        """Called before the candidates are measured on a split, and before their weights are kept."""


def defines(method: type[Procedure], hook: str) -> bool:
    """Whether a class of methods has a hook of its own."""
    return getattr(method, hook).__func__ is not getattr(Procedure, hook).__func__
