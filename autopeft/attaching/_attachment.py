"""Hybrids on a model, from attaching to detaching."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from autopeft.anatomy import head_names, shape_of, vocabulary_of
from autopeft.attaching._banks import Banks
from autopeft.attaching._hooks import Hooks
from autopeft.hybrid import Hybrid

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: The submodule of the model that holds the banks while hybrids are attached.
NAME = "autopeft"


class Attachment:
    """Hybrids on a model. Use as a context manager, or call `detach()`.

    While attached: the backbone is frozen, the head (if there is one) and `model.autopeft` are trainable. K hybrids
    take inputs of K*B sequences, candidate-major; with `starts`, layer i takes those of the candidates that have
    started there or below (see `Banks`). After detaching the model is as before, to the bit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        hybrids: Hybrid | Sequence[Hybrid],
        seeds: int | Sequence[int] = 0,
        attention: str | None = None,
        starts: Sequence[int] | None = None,
    ) -> None:
        hybrids = [hybrids] if isinstance(hybrids, Hybrid) else list(hybrids)
        seeds = [seeds] * len(hybrids) if isinstance(seeds, int) else list(seeds)
        if hasattr(model, NAME):
            raise ValueError("the model has hybrids attached already; detach them first")
        self.model = model
        self.banks = Banks(hybrids, shape_of(model), seeds, starts, vocabulary_of(model)).place(model)
        self._trainable = {name: p.requires_grad for name, p in model.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(tuple(f"{head}." for head in head_names(model))))
        self.hooks = Hooks(model, self.banks, attention)
        model.add_module(NAME, self.banks)

    def detach(self) -> None:
        """Take the hybrids off; a second call does nothing."""
        if getattr(self.model, NAME, None) is not self.banks:
            return
        self.hooks.remove()
        delattr(self.model, NAME)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._trainable[name])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def attach(model: PreTrainedModel, hybrid: Hybrid, seed: int = 0) -> Attachment:
    """Put one hybrid on a model, for a training loop of your own.

    ```python
    with autopeft.attach(model, hybrid):
        ...  # train model.parameters() with requires_grad
    ```
    """
    return Attachment(model, hybrid, seed)
