"""Layers whose activations are computed again in the backward pass, in the place of being kept.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". Transformers' own acts in training mode only, and
here models are trained in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from transformers import Cache


class Checkpointed:
    """Keeps of these layers what they are given and nothing else, until `remove`.

    Hooks on a layer itself act outside of it, once; those on its modules act again when it is computed again.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        for layer in layers:
            layer.__dict__["forward"] = partial(_forward, layer.forward)

    def remove(self) -> None:
        """They keep their activations again."""
        for layer in self._layers:
            layer.__dict__.pop("forward", None)


def _forward(own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return own(*args, **kwargs)
    # A cache of keys would be given them again when they are computed again.
    args = tuple(_without_cache(value) for value in args)
    kwargs = {name: _without_cache(value) for name, value in kwargs.items()}
    # To its end, since hooks forget there what they have kept; evaluation mode draws no random numbers.
    with set_checkpoint_early_stop(False):
        return checkpoint(own, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def _without_cache(value: Any) -> Any:
    return None if isinstance(value, Cache) else value
