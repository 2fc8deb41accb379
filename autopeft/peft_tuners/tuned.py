"""A tuner's layers computed with weights that lie elsewhere: in the banks, beside those of other candidates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call

from autopeft.peft_tuners.container import Container
from autopeft.peft_tuners.container import shell as copied
from autopeft.peft_tuners.profile import Map, Profile, endings, entries, kept_by
from autopeft.peft_tuners.setting import Setting


@dataclass(frozen=True)
class Flat:
    """Weights end to end: trained ones, and kept ones in fp32 (see `entries`)."""

    trained: torch.Tensor
    kept: torch.Tensor


@dataclass(frozen=True)
class _Slot:
    """A tensor of a layer, by its name there, and where it lies among the place's own entries or the model's."""

    name: str
    start: int
    tensor: torch.Tensor

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        part = flat[self.start : self.start + entries(self.tensor)]
        if self.tensor.is_floating_point():
            return part.view(self.tensor.shape)
        high, low = part.view(2, -1).double()
        return (high * _BASE + low).to(self.tensor.dtype).view(self.tensor.shape)

    def put(self, flat: torch.Tensor) -> None:
        flat[self.start : self.start + entries(self.tensor)] = encoded(self.tensor).to(flat.device)


#: Whole numbers are kept as two fp32 ones, which are exact.
_BASE = 2**20


def encoded(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's entries in fp32, whole numbers as two each."""
    flat = tensor.detach().reshape(-1)
    if flat.is_floating_point():
        return flat.float()
    whole = flat.long()
    return torch.cat([whole // _BASE, whole % _BASE]).float()


class Reused:
    """In a shell, the backbone's own output for the input that its map was given, which is not computed again."""

    def __init__(self, shell: nn.Module) -> None:
        self.given: torch.Tensor | None = None
        self.output: torch.Tensor | None = None
        self.met = False
        self._compute: Callable[..., torch.Tensor] = shell.forward

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The shell's forward."""
        if x is self.given and self.output is not None:
            self.met = True
            return self.output
        return self._compute(x, *args, **kwargs)


class Lock:
    """A lock whose copies and pickles are new locks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()


class Tuned:
    """The layer of a tuner at one place.

    `trained` and `kept` count the entries that are the place's own; others are the model's. Threads take turns, as a
    layer holds the weights while it computes.
    """

    def __init__(self, container: Container, name: str, place: str, profile: Profile, reused: Reused) -> None:
        self.container = container
        self._layer, self._reused, self._lock = container.layers[name], reused, Lock()
        used = container.used(name)
        kept = kept_by(container, name)
        tied = {n: at for (where, n), at in profile.tied.items() if where == place}
        self._own, self.trained = _laid_out({n: t for n, t in used.items() if n not in tied})
        self._own_kept, self.kept = _laid_out({n: t for n, t in kept.items() if n not in tied})
        self._shared = [_Slot(n, tied[n], t) for n, t in used.items() if n in tied]
        self._shared_kept = [_Slot(n, tied[n], t) for n, t in kept.items() if n in tied]
        self._decoded: dict[str, tuple[Any, torch.Tensor]] = {}

    @property
    def replaces(self) -> bool:
        """Whether it computes the map's output anew and leaves out what the backbone has computed."""
        return not self._reused.met

    def write(self, own: Flat, shared: Flat) -> None:
        """Write the initial values of what is trained to where it shall lie."""
        for slots, flat in ((self._own, own.trained), (self._shared, shared.trained)):
            for slot in slots:
                slot.put(flat)

    def write_kept(self, own: Flat, shared: Flat) -> None:
        """Write what is not trained."""
        for slots, flat in ((self._own_kept, own.kept), (self._shared_kept, shared.kept)):
            for slot in slots:
                slot.put(flat)

    @torch.no_grad()
    def take(self, own: Flat, shared: Flat) -> None:
        """Put weights into the tuner's own tensors, from where PEFT stores them."""
        held: dict[str, torch.Tensor] = dict(self._layer.named_parameters(remove_duplicate=False))
        held |= dict(self._layer.named_buffers(remove_duplicate=False))
        for name, tensor in self._tensors(own, shared).items():
            held[name].copy_(tensor)

    def __call__(self, output: torch.Tensor, x: torch.Tensor, own: Flat, shared: Flat) -> torch.Tensor:
        """The map's `output` for input `x`, as the tuner changes it; computed in fp32."""
        tensors = self._tensors(own, shared)
        # A copy: some tuners add to it in place.
        given, base = x.float(), output.float() if output.dtype != torch.float32 else output.clone()
        with self._lock:
            self._reused.given, self._reused.output = given, base
            try:
                changed = functional_call(self._layer, tensors, (given,), tie_weights=False)
            finally:
                self._reused.given = self._reused.output = None
        return changed.to(output.dtype)

    def _tensors(self, own: Flat, shared: Flat) -> dict[str, torch.Tensor]:
        found = {slot.name: slot.of(own.trained) for slot in self._own}
        found |= {slot.name: slot.of(shared.trained) for slot in self._shared}
        found |= {slot.name: self._kept(slot, own.kept) for slot in self._own_kept}
        return found | {slot.name: self._kept(slot, shared.kept) for slot in self._shared_kept}

    def _kept(self, slot: _Slot, flat: torch.Tensor) -> torch.Tensor:
        if slot.tensor.is_floating_point():
            return slot.of(flat)
        # Indices are decoded when they have changed.
        version = (flat.data_ptr(), flat._version)
        if slot.name not in self._decoded or self._decoded[slot.name][0] != version:
            self._decoded[slot.name] = version, slot.of(flat)
        return self._decoded[slot.name][1]


def tune(
    setting: Setting, profile: Profile, maps: Mapping[str, tuple[Map, nn.Module]], seed: int
) -> tuple[dict[str, Tuned], dict[str, Tuned]]:
    """A tuner's layers at maps by name (`layers.3.attention.self.query`): to compute with, and to start from.

    Of the maps are given shells. What is drawn and not trained, such as a mask, is the same for every seed, so that
    trained weights fit a tuner that is built again; the second layers hold the seed's initial values.
    """
    layers = _tuned(setting, profile, maps, 0)
    return layers, _tuned(setting, profile, maps, seed) if seed else layers


def _tuned(
    setting: Setting, profile: Profile, maps: Mapping[str, tuple[Map, nn.Module]], seed: int
) -> dict[str, Tuned]:
    shells = {name: copied(shell) for name, (_, shell) in maps.items()}
    reused = {name: Reused(shell) for name, shell in shells.items()}
    for name, made in shells.items():
        made.__dict__["forward"] = reused[name]
    container = Container(setting, shells, *endings([m for m, _ in maps.values()]), seed)
    return {n: Tuned(container, n, m.place, profile, reused[n]) for n, (m, _) in maps.items()}


def _laid_out(tensors: Mapping[str, torch.Tensor]) -> tuple[list[_Slot], int]:
    """The tensors one after another, each once, and how many entries they are."""
    slots, starts, total = [], dict[int, int](), 0
    for name, tensor in sorted(tensors.items()):
        if id(tensor) not in starts:
            starts[id(tensor)] = total
            total += entries(tensor)
        slots.append(_Slot(name, starts[id(tensor)], tensor))
    return slots, total


@torch.no_grad()
def is_tokenwise(tuned: Tuned, module: nn.Module, own: Flat, shared: Flat) -> bool:
    """Whether a layer says the same of a token without the rest of its text, and of a text without the others.

    If not, packs, padding and layers that are computed for one token only would change what it says.
    """
    base, wide = type(module).forward.__get__(module), cast(torch.Tensor, module.weight).shape[-1]
    x = torch.randn(2, 6, wide, generator=torch.Generator().manual_seed(0))
    whole = tuned(base(x), x, own, shared)
    parts = [tuned(base(part), part, own, shared) for part in (x[:1], x[:, :1].contiguous())]
    return all(torch.allclose(p, whole[: len(p), : p.shape[1]], rtol=1e-3, atol=1e-3) for p in parts)
