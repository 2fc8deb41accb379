"""Embeddings of positions through maps that candidates change: each candidate's own.

Shapes: K candidates, N = K*B sequences, H heads, L tokens, h head width, S positions, d width.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn


class _Now(threading.local):
    """The candidate whose positions a thread computes. Copies and pickles of it are empty."""

    value: int | None = None

    def __reduce__(self) -> tuple[type[_Now], tuple[()]]:
        return _Now, ()


class ByCandidate:
    """Stands in for a method of an attention module that is given queries and keys [N*H, L, h] of all sequences.

    It calls the method once a candidate; while it does, `own` has maps give that candidate's output for embeddings
    [1, S, d], which are the same for all.
    """

    def __init__(self, module: nn.Module, name: str, candidates: int) -> None:
        self._module, self._name, self._candidates, self._now = module, name, candidates, _Now()
        self._method = getattr(module, name)
        module.__dict__[name] = self

    def __call__(self, query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What the method gives, [N*H, L, L]."""
        found = []
        try:
            for k, rows in enumerate(zip(query.chunk(self._candidates), key.chunk(self._candidates), strict=True)):
                self._now.value = k
                found.append(self._method(*rows, *args, **kwargs))
        finally:
            self._now.value = None
        return torch.cat(found)

    def own(self, x: torch.Tensor) -> torch.Tensor:
        """[1, S, d] a candidate, where positions are computed; else as it is."""
        return x if self._now.value is None else x.expand(self._candidates, *x.shape[1:])

    def chosen(self, x: torch.Tensor) -> torch.Tensor:
        """The current candidate's of [K, S, d], where positions are computed; else as it is."""
        return x if self._now.value is None else x[self._now.value :][:1]

    def undo(self) -> None:
        """The method is itself again."""
        self._module.__dict__.pop(self._name, None)
