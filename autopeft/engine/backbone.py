"""One loaded backbone that candidates are swapped on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autopeft.anatomy import head_names, shape_of
from autopeft.attachment import Attachment
from autopeft.attention import MATMUL
from autopeft.hybrid import Hybrid
from autopeft.models import ModelSource

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
        asked = "bf16" if _fast_bf16(device) else "fp32"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[asked]
    # SDPA's backward in bf16 on a CPU takes over half of a step; two products and a softmax are twice as fast.
    return Precision(dtype, MATMUL if device.type == "cpu" and asked == "bf16" else None)


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


class Backbone:
    """A frozen model with a head that is trained anew for every candidate."""

    def __init__(
        self,
        source: ModelSource,
        num_labels: int,
        regression: bool,
        precision: Precision,
        device: torch.device,
        pad_id: int | None = None,
    ) -> None:
        self.model: PreTrainedModel = source.model(num_labels, regression, precision.dtype, pad_id)
        self.model.to(device)
        self.device, self.precision = device, precision
        self.shape = shape_of(self.model)
        self.heads: dict[str, nn.Module] = {name: self.model.get_submodule(name) for name in head_names(self.model)}
        for head in self.heads.values():
            head.float()
            head.register_forward_pre_hook(_to_float)
        self._initializer = float(getattr(self.model.config, "initializer_range", 0.02))

    def attach(self, hybrid: Hybrid, seed: int) -> Attachment:
        """Put a hybrid on, with a fresh head; both are drawn from `seed`."""
        self.reset_head(seed)
        return Attachment(self.model, hybrid, seed, self.precision.attention)

    @torch.no_grad()
    def reset_head(self, seed: int) -> None:
        """Draw the head as transformers does: normal weights, zero biases, norms at one."""
        generator = torch.Generator().manual_seed(seed)
        for module in (m for head in self.heads.values() for m in head.modules()):
            if isinstance(module, nn.Linear):
                drawn = torch.randn(module.weight.shape, generator=generator) * self._initializer
                module.weight.copy_(drawn)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def head_params(self) -> int:
        """Parameters of the head, trained beside every hybrid."""
        return sum(p.numel() for head in self.heads.values() for p in head.parameters())

    def weights(self, attachment: Attachment) -> dict[str, torch.Tensor]:
        """Copies of all that was trained: `hybrid.<bank weight>` and `head.<name>`."""
        found = {f"hybrid.{name}": w for name, w in attachment.banks.weights().items()}
        for name, head in self.heads.items():
            found |= {f"head.{name}.{part}": w for part, w in head.state_dict().items()}
        return {name: w.detach().float().cpu().contiguous().clone() for name, w in found.items()}

    def load(self, attachment: Attachment, weights: Mapping[str, torch.Tensor]) -> None:
        """Set what `weights()` gave."""
        hybrid = {n.removeprefix("hybrid."): w for n, w in weights.items() if n.startswith("hybrid.")}
        attachment.banks.load(hybrid)
        for name, head in self.heads.items():
            prefix = f"head.{name}."
            head.load_state_dict({n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)})


def _to_float(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Heads are trained in fp32 whatever the backbone's data type."""
    return tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in args)
