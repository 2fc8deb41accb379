"""One loaded backbone that candidates are swapped on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autopeft.anatomy import shape_of
from autopeft.attaching import try_hybrids
from autopeft.attention import FUSED, MATMUL, set_attention
from autopeft.models import ModelSource
from autopeft.readouts import Readout
from autopeft.weight_names import HEAD

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Precision:
    """Data type of the frozen weights and the attention function; trained weights are always fp32."""

    dtype: torch.dtype | str
    attention: str | None


#: Of all that is reported and exported, whatever the checkpoint's data type: what is trained is fp32, and stock PEFT
#: computes in that of its own weights, so that a narrower backbone would give other numbers there than here.
REPORTED = Precision(torch.float32, None)


def choose_precision(asked: str, device: torch.device) -> Precision:
    """`auto` is bf16 where the device multiplies it fast: GPUs that support it, CPUs with bf16 instructions."""
    if asked == "auto":
        asked = "bf16" if fast_bf16(device) else "fp32"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[asked]
    # SDPA's backward in bf16 on a CPU takes over half of a step; two products and a softmax are twice as fast.
    return Precision(dtype, MATMUL if device.type == "cpu" and asked == "bf16" else FUSED)


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 faster than fp32: GPUs that support it, CPUs with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


class Backbone:
    """A frozen model, with a head that is trained anew for every candidate where the readout has one."""

    def __init__(
        self,
        source: ModelSource,
        readout: Readout,
        precision: Precision,
        device: torch.device,
        pad_id: int | None = None,
    ) -> None:
        self.model: PreTrainedModel = source.model(readout, precision.dtype, pad_id)
        self.model.to(device)
        try_hybrids(self.model, source.name, precision.attention)
        self.device, self.precision, self.readout = device, precision, readout
        self.shape = shape_of(self.model)
        self.dtype = next(self.model.base_model.parameters()).dtype
        self.heads: dict[str, nn.Module] = {name: self.model.get_submodule(name) for name in readout.heads(self.model)}
        for head in self.heads.values():
            head.float()
            head.register_forward_pre_hook(_to_float)
        readout.opened(self.model)
        #: Tokens with padding that may go through at once, all sequences together.
        self.most_tokens = readout.most_tokens(self.model) or sys.maxsize
        self._initializer = float(getattr(self.model.config, "initializer_range", 0.02))
        #: What heads start from, by `<module>.<parameter>`, where they are not drawn.
        self.head_start: Mapping[str, torch.Tensor] = {}

    @property
    def head_weights(self) -> dict[str, torch.Tensor]:
        """The heads' own, as `head.<module>.<weight>`."""
        return {
            f"{HEAD}{name}.{w}": p.detach() for name, head in self.heads.items() for w, p in head.named_parameters()
        }

    @property
    def head_parameters(self) -> list[nn.Parameter]:
        """The same, to be trained."""
        return [parameter for head in self.heads.values() for parameter in head.parameters()]

    @contextmanager
    def attending(self) -> Iterator[None]:
        """The bare model, with the attention function that hybrids are trained with."""
        own = self.model.config._attn_implementation
        if self.precision.attention:
            set_attention(self.model, self.precision.attention)
        try:
            yield
        finally:
            self.model.set_attn_implementation(own)

    @torch.no_grad()
    def reset_head(self, seed: int) -> None:
        """Draw the head as transformers does (normal weights, zero biases, norms at one), or set `head_start`."""
        generator = torch.Generator().manual_seed(seed)
        for module in (m for head in self.heads.values() for m in head.modules()):
            if isinstance(module, nn.Linear):
                drawn = torch.randn(module.weight.shape, generator=generator) * self._initializer
                module.weight.copy_(drawn)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for name, value in self.head_start.items():
            self.model.get_parameter(name).copy_(value)


def _to_float(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Heads are trained in fp32 whatever the backbone's data type."""
    return tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in args)
