"""LoRA by hooks on a model's own maps, which weights given from outside can stand in for.

Shapes: r rank, m and n outputs and inputs of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from autopeft.anatomy import SITES, ModelShape, Rows, joined, layers_of
from autopeft.errors import AutopeftError, suggest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LowRank(nn.Module):
    """B A x of one map, A [r, n] Kaiming and B [m, r] zero."""

    def __init__(self, wide_in: int, wide_out: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = wide_in**-0.5
        self.A = nn.Parameter(torch.rand(rank, wide_in, generator=generator) * 2 * bound - bound)
        self.B = nn.Parameter(torch.zeros(wide_out, rank))

    def forward(self, x: torch.Tensor, shares: torch.Tensor | None = None) -> torch.Tensor:
        """What is added to the map's output [..., m]; `shares` [r] scales what stands between A and B."""
        inner = functional.linear(x, self.A)
        return functional.linear(inner if shares is None else inner * shares, self.B)


class WithLowRank(nn.Module):
    """A frozen model with LoRA at these sites of every layer; `maps` has them by `<layer>:<site>`.

    `shares`, if given, is asked at each map for what scales the space between A and B.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        shape: ModelShape,
        rank: int,
        sites: Sequence[str],
        seed: int,
        shares: Callable[[], torch.Tensor | None] = lambda: None,
    ) -> None:
        super().__init__()
        if wrong := sorted(set(sites) - set(SITES)):
            raise AutopeftError(f"sites: unknown site '{wrong[0]}'; {suggest(wrong[0], SITES)}")
        if rank < 1 or not sites:
            raise AutopeftError("a LoRA needs a rank of at least 1 and at least one site")
        self.model, self._shares = model, shares
        self.maps, generator = nn.ModuleDict(), torch.Generator().manual_seed(seed)
        for i, layer in enumerate(layers_of(model)):
            own = shape.at(i)
            for name in sites:
                self.maps[f"{i}:{name}"] = LowRank(*own.sites[name], rank, generator)
                module = layer.get_submodule(own.row.site(name).module)
                module.register_forward_hook(self._hook(f"{i}:{name}", own.rows(name)))
        self.maps.to(model.device)

    def forward(self, **inputs: Any) -> Any:
        """The model's output."""
        return self.model(**inputs)

    def weights(self) -> dict[str, torch.Tensor]:
        """A and B as a hybrid's weights are named, `hybrid.layers.<i>.<site>.lora.<A or B>`."""
        found: dict[str, torch.Tensor] = {}
        for key, low in self.maps.items():
            i, _, site = key.partition(":")
            found |= {f"hybrid.layers.{i}.{site}.lora.{n}": p.detach().cpu() for n, p in low.named_parameters()}
        return found

    def _hook(self, key: str, rows: Rows) -> Callable[..., torch.Tensor]:
        def add(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            # Looked up at each call: functional calls put other weights in their place.
            low: Any = self.maps[key]
            delta = low(args[0].float(), self._shares()).to(output.dtype)
            return joined(output, [(rows, rows.of(output, -1) + delta)])

        return add
