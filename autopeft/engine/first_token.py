"""The last layer, computed for the first token only where the head reads no other.

Shapes: N sequences, L tokens, d width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autopeft.anatomy import family_of, layers_of
from autopeft.attention import set_first_only
from autopeft.hybrid import Hybrid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def first_token_is_all(hybrids: Iterable[Hybrid]) -> bool:
    """Whether the last layer may be computed for the first token alone: no method in it mixes tokens."""
    return all(method.tokenwise for hybrid in hybrids for method in hybrid.layers[-1])


class FirstTokenOnly:
    """Hooks on the last layer: its queries, and all that comes after attention, are those of the first token.

    Exact, and ten twelfths of a BERT layer's products are saved, forward and backward. Put on after hybrids, whose
    methods then act on that token alone; the model must attend by `autopeft.attention`. Does nothing for families whose
    heads read other tokens.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._handles: list[Any] = []
        self._attention: nn.Module | None = None
        self._tokens = 0
        family, last = family_of(model.config), layers_of(model)[-1]
        if family.residual is None:
            return
        query = last.get_submodule(family.site("q").module)
        self._attention = last.get_submodule(family.attention)
        set_first_only(self._attention, True)
        self._handles = [
            query.register_forward_pre_hook(self._cut_queries),
            query.register_forward_hook(self._repeat),
            last.get_submodule(family.residual).register_forward_pre_hook(_cut),
        ]

    def remove(self) -> None:
        """Undo everything."""
        for handle in self._handles:
            handle.remove()
        if self._attention is not None:
            set_first_only(self._attention, False)

    def _cut_queries(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self._tokens = args[0].shape[1]
        return _cut(module, args)

    def _repeat(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        # The attention module wants as many queries as it has tokens; ours takes the first.
        return output.expand(-1, self._tokens, -1)


def _cut(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    # A linear map takes strided rows for a batch of matrices, each with a copy of the weights.
    return tuple(x[:, :1].contiguous() for x in args)
