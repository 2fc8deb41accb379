"""What a tuner holds at each place of a layer and once a model: counted on stand-ins of the maps, not on a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from autopeft.peft_tuners.setting import Setting

if TYPE_CHECKING:
    import torch
    from torch import nn

    from autopeft.peft_tuners.container import Container

#: A layer's places in the order in which models hold them.
ORDER = ("norm1", "q", "k", "v", "o", "gate", "up", "down", "norm2")
#: Layers of the stand-in: what two layers have in common is shared by the model.
_FIRST, _SECOND = "layers.0", "layers.1"
#: Numbers that a tuner on it may make while it is built: so many, or the maps' own times this.
_MOST, _TIMES = 2**28, 16


@dataclass(frozen=True)
class Map:
    """A linear map or norm of a layer: its place, its dotted name in the layer, its widths, whether it has a bias."""

    place: str
    module: str
    wide_in: int
    wide_out: int
    bias: bool

    @property
    def is_norm(self) -> bool:
        """Whether it is a norm."""
        return self.place.startswith("norm")

    def stand_in(self, device: torch.device) -> nn.Module:
        """A module of its kind and size, with weights that are drawn."""
        from torch import nn

        if self.is_norm:
            kind = nn.LayerNorm if self.bias else nn.RMSNorm
            return kind(self.wide_out, device=device)
        return nn.Linear(self.wide_in, self.wide_out, self.bias, device=device)


@dataclass(frozen=True)
class Holding:
    """Of a place, or of the model: trained entries, entries of what is kept beside them, bytes that PEFT stores."""

    trained: int = 0
    kept: int = 0
    stored: int = 0


@dataclass(frozen=True)
class Profile:
    """What a tuner holds at each place and once a model.

    `tied` says where what is held once a model lies among its entries, trained and kept ones apart: by the place, and
    the name under which the layer's own module knows the tensor.
    """

    places: Mapping[str, Holding] = field(hash=False)
    model: Holding
    tied: Mapping[tuple[str, str], int] = field(hash=False)

    @property
    def trained(self) -> int:
        """Trained entries of one layer alone."""
        return self.model.trained + sum(held.trained for held in self.places.values())


@lru_cache(maxsize=4096)
def profile(setting: Setting, maps: tuple[Map, ...], on_meta: bool) -> Profile:
    """The profile of a tuner on these maps of each layer."""
    import torch

    container = stand_in(setting, maps, torch.device("meta" if on_meta else "cpu"))
    keys = [(layer, m) for layer in (_FIRST, _SECOND) for m in maps]
    used = {key: container.used(_name(*key)) for key in keys}
    kept = {key: kept_by(container, _name(*key)) for key in keys}
    tied: dict[tuple[str, str], int] = {}
    trained_once, kept_once = (_tie(found, maps, tied) for found in (used, kept))
    stored = _stored(container, maps, used, tied)
    places = {m.place: Holding(_own(used, m, tied), _own(kept, m, tied), stored[m]) for m in maps}
    return Profile(places, Holding(trained_once, kept_once, stored[None]), tied)


def stand_in(setting: Setting, maps: Sequence[Map], device: torch.device, layers: int = 2) -> Container:
    """The tuner on stand-ins of the maps, in so many layers; `TooLarge` before far more is allocated than they have."""
    import torch

    from autopeft.peft_tuners.bounded import Bounded
    from autopeft.peft_tuners.container import Container

    most = max(_MOST, _TIMES * layers * sum(m.wide_in * m.wide_out for m in maps))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shells = {f"layers.{i}.{m.module}": m.stand_in(device) for i in range(layers) for m in maps}
    with Bounded(most):
        return Container(setting, shells, *endings(maps))


def endings(maps: Sequence[Map]) -> tuple[list[str], list[str]]:
    """The names of the maps in a layer, and of those that are scaled at their input (the last of the network)."""
    by_place = {m.place: m.module for m in maps}
    return list(by_place.values()), [module for place, module in by_place.items() if place == "down"]


def entries(tensor: torch.Tensor) -> int:
    """Numbers of fp32 that hold a tensor: whole numbers take two each."""
    return tensor.numel() * (1 if tensor.is_floating_point() else 2)


def kept_by(container: Container, name: str) -> dict[str, torch.Tensor]:
    """What a layer holds and PEFT stores beside what is trained, by the names in that layer."""
    return {n: t for n, t in container.reachable(name).items() if not t.requires_grad}


_Found = Mapping[tuple[str, Map], Mapping[str, "torch.Tensor"]]


def _name(layer: str, m: Map) -> str:
    return f"{layer}.{m.module}"


def _tie(found: _Found, maps: Sequence[Map], tied: dict[tuple[str, str], int]) -> int:
    """Add to `tied` what both layers hold; how many entries that is."""
    second = {id(t) for m in maps for t in found[_SECOND, m].values()}
    offsets: dict[int, int] = {}
    total = 0
    for m in maps:
        for name, tensor in found[_FIRST, m].items():
            if id(tensor) in second:
                if id(tensor) not in offsets:
                    offsets[id(tensor)] = total
                    total += entries(tensor)
                tied[m.place, name] = offsets[id(tensor)]
    return total


def _own(found: _Found, m: Map, tied: Mapping[tuple[str, str], int]) -> int:
    return sum(entries(t) for t in _untied(found, m, tied))


def _untied(found: _Found, m: Map, tied: Mapping[tuple[str, str], int]) -> list[torch.Tensor]:
    return list({id(t): t for name, t in found[_SECOND, m].items() if (m.place, name) not in tied}.values())


def _stored(
    container: Container, maps: Sequence[Map], used: _Found, tied: Mapping[tuple[str, str], int]
) -> dict[Map | None, int]:
    """Bytes that PEFT stores for each map of the second layer; under None those that it stores once."""
    state = {name: t.numel() * t.element_size() for name, t in container.state().items()}
    found: dict[Map | None, int] = {}
    for m in maps:
        found[m] = sum(size for name, size in state.items() if f".{_name(_SECOND, m)}." in name)
        # What one layer alone uses may be stored under a name of the model's own.
        elsewhere = {id(t): n for n, t in container.tensors.items() if f".{_name(_SECOND, m)}." not in n}
        found[m] += sum(4 * t.numel() for t in _untied(used, m, tied) if id(t) in elsewhere)
    found[None] = max(0, sum(state.values()) - 2 * sum(found.values()))
    return found
