"""The loss of a language model's frozen head, in chunks of tokens and without keeping logits.

A vocabulary of 150,000 makes the logits of 1,000 tokens 0.6 GB, and their loss takes several times that. The head is
frozen, so its weights need no gradient: the forward pass works out the gradient of the hidden states as well, chunk by
chunk, and keeps that alone. Wijmans et al. 2025, "Cut Your Losses in Large-Vocabulary Language Models", do the same in
one kernel, and with a gradient of the weights.

Shapes: N sequences, L tokens, d width, V words, R tokens that are scored.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from autopeft.anatomy import family_of, hidden_states

#: Logits that are in memory at once, by the device's kind.
AT_ONCE = {"cpu": 2**23, "cuda": 2**27}
#: By how much our logits may differ from the model's, relative to its largest.
_CLOSE = {torch.float32: 1e-4, torch.float64: 1e-4}
_CLOSE_HALF = 2e-2

#: What a head is given [N, L, d], of a model and its inputs.
Given = Callable[[Any, Any], torch.Tensor]


@dataclass(frozen=True)
class FrozenHead:
    """Logits `softcap(scale (W h + b))` of hidden states h; `softcap(x)` is c tanh(x / c), or x where c is None."""

    module: nn.Module
    more_bias: torch.Tensor | None
    scale: float
    softcap: float | None

    @property
    def weight(self) -> torch.Tensor:
        """W [V, d]."""
        weight: torch.Tensor = self.module.weight  # type: ignore[assignment]
        return weight

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[R, V] in fp32, of hidden states [R, d]."""
        bias: Any = getattr(self.module, "bias", None)
        found = functional.linear(hidden.to(self.weight.dtype), self.weight, bias).float()
        if self.more_bias is not None:
            found = found + self.more_bias.float()
        if self.scale != 1:
            found = found * self.scale
        return found if self.softcap is None else self.softcap * torch.tanh(found / self.softcap)

    def losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of hidden states [R, d] and the words [R] that follow: cross entropy, and whether the word is the likeliest.

        [R, 2] in fp32; only the cross entropy has a gradient, and only the hidden states get one.
        """
        found: torch.Tensor = _Losses.apply(hidden, targets, self)
        return found


class _Losses(torch.autograd.Function):
    """`FrozenHead.losses`."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: FrozenHead) -> torch.Tensor:
        found = hidden.new_empty(len(hidden), 2, dtype=torch.float32)
        needed = ctx.needs_input_grad[0]
        gradients = torch.empty_like(hidden) if needed else hidden[:0]
        step = max(1, AT_ONCE.get(hidden.device.type, AT_ONCE["cpu"]) // len(head.weight))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            # A name that lives on would keep the last chunk's logits beside the next one's.
            gradient = _chunk(head, hidden[rows], targets[rows], found[rows], needed)
            if gradient is not None:
                gradients[rows] = gradient
        ctx.save_for_backward(gradients)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return (gradients * upstream[:, :1]).to(gradients.dtype), None, None


def _chunk(
    head: FrozenHead, hidden: torch.Tensor, targets: torch.Tensor, found: torch.Tensor, needed: bool
) -> torch.Tensor | None:
    """Fill `found` [r, 2]; the gradient [r, d] of the cross entropy of each, where it is needed."""
    logits = head.logits(hidden)
    total = logits.logsumexp(1)
    found[:, 0] = total - logits.gather(1, targets[:, None])[:, 0]
    found[:, 1] = (logits.argmax(1) == targets).float()
    if not needed:
        return None
    slope = None if head.softcap is None else 1 - (logits / head.softcap).square_()
    wrong = logits.sub_(total[:, None]).exp_()
    wrong[torch.arange(len(targets), device=targets.device), targets] -= 1
    if slope is not None:
        wrong.mul_(slope)
    if head.scale != 1:
        wrong.mul_(head.scale)
    return (wrong.to(head.weight.dtype) @ head.weight).to(hidden.dtype)


#: What was found of each model, once: looking needs a forward pass.
_HEADS: weakref.WeakKeyDictionary[nn.Module, FrozenHead | None] = weakref.WeakKeyDictionary()


def head_of(model: Any, given: Given | None = None) -> FrozenHead | None:
    """The head of a language model, where the logits that it gives here are the model's own; else None.

    `given`: what gives it its inputs (`hidden_of`). The first call for a model compares them on a batch, so it must be
    one that the model can be given as it is.
    """
    if not isinstance(model, nn.Module):
        return None
    if model not in _HEADS:
        _HEADS[model] = _compared(model, given or hidden_of)
    head = _HEADS[model]
    # A head that is trained itself needs a gradient.
    return None if head is None or head.weight.requires_grad else head


def hidden_of(model: Any, inputs: Any) -> torch.Tensor:
    """The last hidden states [N, L, d], as the head is given them."""
    return hidden_states(plain(model), inputs)


def given_to_head(model: Any, inputs: Any) -> torch.Tensor:
    """What the map to the vocabulary is given [N, L, d], behind what else a head does; its logits are not computed."""
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        kept.append(args[0])
        return (args[0][:, :0],)

    handle = plain(model).get_output_embeddings().register_forward_pre_hook(keep)
    try:
        model(**inputs)
    finally:
        handle.remove()
    return kept[0]


def plain(model: Any) -> Any:
    """The model itself, where PEFT has wrapped it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def _compared(model: nn.Module, given: Given) -> FrozenHead | None:
    head = _declared(plain(model))
    if head is None:
        return None
    ids = torch.arange(8, device=head.weight.device).view(2, 4) * max(1, len(head.weight) // 8)
    inputs = {"input_ids": ids, "attention_mask": ids.new_tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}
    if family_of(plain(model).config).decoder is not None:
        inputs["decoder_input_ids"] = ids.flip(0)
    try:
        theirs = model(**inputs).logits.float()
        ours = head.logits(given(model, inputs).flatten(0, 1)).view_as(theirs)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return None
    apart, largest = (theirs - ours).abs().max(), theirs.abs().max()
    return head if bool(apart <= _CLOSE.get(head.weight.dtype, _CLOSE_HALF) * largest) else None


def _declared(model: Any) -> FrozenHead | None:
    """What configuration and modules say of the head."""
    module = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    weight = getattr(module, "weight", None)
    if module is None or weight is None or weight.dim() != 2 or not weight.is_floating_point():
        return None
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    divided = float(getattr(config, "logits_scaling", None) or 1)
    scale = float(getattr(config, "logit_scale", None) or 1) / divided
    if getattr(config, "scale_decoder_outputs", False):
        # T5, whose embeddings are its head.
        scale *= float(config.hidden_size) ** -0.5
    softcap = getattr(config, "final_logit_softcapping", None)
    return FrozenHead(module, getattr(model, "final_logits_bias", None), scale, float(softcap) if softcap else None)
