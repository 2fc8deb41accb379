"""Linear maps with LoRA whose rows and columns can be scored, masked and cut, and the layers made of them.

Shapes: r rank, m and n outputs and inputs of a map, G groups of one kind in a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from autopeft.anatomy import SITES, ModelShape, family_of, layers_of
from autopeft.engine.backbone import Backbone
from autopeft.errors import AutopeftError


class PrunableMap(nn.Module):
    """W x + b + B A x, with inputs masked; A [r, n] is Kaiming, B [m, r] zero."""

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        m, n, device = linear.out_features, linear.in_features, linear.weight.device
        bound = n**-0.5
        self.linear = linear
        self.A = nn.Parameter((torch.rand(rank, n, generator=generator) * 2 * bound - bound).to(device))
        self.B = nn.Parameter(torch.zeros(m, rank, device=device))
        #: Of the inputs, [n]; ones where nothing is masked, None where nothing can be.
        self.mask: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mask is not None:
            x = x * self.mask
        found: torch.Tensor = self.linear(x) + functional.linear(functional.linear(x, self.A), self.B)
        return found

    def weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained."""
        yield from (("A", self.A), ("B", self.B))

    def importance(self) -> torch.Tensor:
        """(g * (W + B A))^2 [m, n], with g = dB A + B dA - dB dA."""
        a = self.A.grad if self.A.grad is not None else torch.zeros_like(self.A)
        b = self.B.grad if self.B.grad is not None else torch.zeros_like(self.B)
        gradient = b @ self.A + self.B @ a - b @ a
        return (gradient * (self.linear.weight + self.B @ self.A)).square()

    def cut(self, rows: torch.Tensor | None, columns: torch.Tensor | None) -> None:
        """Keep these outputs, or inputs, only."""
        self.mask = None
        weight, bias = self.linear.weight.detach(), self.linear.bias
        if rows is not None:
            weight, self.B = weight[rows], nn.Parameter(self.B.detach()[rows])
            bias = nn.Parameter(bias.detach()[rows]) if bias is not None else None
        if columns is not None:
            weight, self.A = weight[:, columns], nn.Parameter(self.A.detach()[:, columns].contiguous())
        self.linear = linear_of(weight, bias)

    def merged(self) -> nn.Linear:
        """A plain map that computes the same."""
        return linear_of(self.linear.weight.detach() + self.B.detach() @ self.A.detach(), self.linear.bias)


class PrunedLayer:
    """The maps of one layer, and masks of its groups: `heads` and `channels`, each [G] of ones and zeros.

    `kept`: the numbers of the groups that are left, once it is cut.
    """

    kinds: ClassVar[tuple[str, ...]] = ("heads", "channels")

    def __init__(self, maps: Mapping[str, PrunableMap], shape: ModelShape) -> None:
        device = maps["q"].B.device
        self.maps, self._shape = maps, shape
        self.masks = {
            "heads": torch.ones(shape.kv_heads, device=device),
            "channels": torch.ones(shape.ffn, device=device),
        }
        self.kept: dict[str, torch.Tensor] = {}

    def mask(self, kind: str, keep: torch.Tensor) -> None:
        """Mask all groups but those where `keep` [G] is True: the map that reads a masked one reads zeros."""
        self.masks[kind] = keep.to(self.masks[kind])
        reader = self.maps[_READS[kind]]
        reader.mask = self.masks[kind].repeat_interleave(reader.linear.in_features // len(keep))

    def importance(self, kind: str) -> torch.Tensor:
        """The groups' importance [G]: the sum over the rows or columns that are theirs."""
        total = torch.zeros_like(self.masks[kind])
        for site, map_ in self.maps.items():
            if (axis := _axis(site, kind)) is not None:
                total += map_.importance().sum(1 - axis).unflatten(0, (len(total), -1)).sum(1)
        return total

    def cut(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Keep the groups of these numbers, at least one of each kind."""
        self.kept = dict(kept)
        for site, map_ in self.maps.items():
            rows, columns = (
                next((self._spread(kind, site, axis) for kind in self.kinds if _axis(site, kind) == axis), None)
                for axis in (0, 1)
            )
            map_.cut(rows, columns)

    def _spread(self, kind: str, site: str, axis: int) -> torch.Tensor:
        """The rows or columns of a map that belong to the groups that are kept."""
        total = self.maps[site].linear.weight.shape[axis]
        size = total // len(self.masks[kind])
        starts = self.kept[kind][:, None] * size
        return (starts + torch.arange(size, device=starts.device)).flatten()


def pruned_layers(backbone: Backbone, rank: int, seed: int) -> list[PrunedLayer]:
    """Put LoRA on all maps of a backbone; `AutopeftError` for families that keep several of them in one."""
    family, generator = family_of(backbone.model.config), torch.Generator().manual_seed(seed)
    if family.site("q").parts > 1:
        raise AutopeftError(
            f"lora_prune: model family '{backbone.shape.family}' has q, k and v in one map, whose heads cannot be cut; "
            "use another baseline or model"
        )
    if family.decoder is not None:
        raise AutopeftError("lora_prune: an encoder and a decoder cannot be pruned; use another baseline or model")
    found = []
    for layer in layers_of(backbone.model):
        maps = {}
        for site in (*SITES, *(["gate"] if family.gate else [])):
            path = family.gate if site == "gate" else family.site(site).module
            assert path is not None
            maps[site] = PrunableMap(layer.get_submodule(path), rank, generator)  # type: ignore[arg-type]
            layer.set_submodule(path, maps[site])
        found.append(PrunedLayer(maps, backbone.shape))
    return found


def linear_of(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A frozen linear map of these weights."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made


#: The maps whose rows are the groups' own, and the one whose columns are.
_MAKES, _READS = {"heads": ("q", "k", "v"), "channels": ("up", "gate")}, {"heads": "o", "channels": "down"}


def _axis(site: str, kind: str) -> int | None:
    """Which axis of a map's weight has the groups: 0 where it makes them, 1 where it reads them."""
    return 0 if site in _MAKES[kind] else 1 if site == _READS[kind] else None
