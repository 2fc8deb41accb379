"""Tuners of PEFT over the places of banks that are on a model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from autopeft.methods._place import Place
from autopeft.peft_tuners.container import shell
from autopeft.peft_tuners.profile import ORDER, Map, profile
from autopeft.peft_tuners.tuned import Flat, Tuned, tune

if TYPE_CHECKING:
    from autopeft.methods._bank import Bank
    from autopeft.methods.peft import PeftBlock


def wire(banks: Sequence[Bank]) -> None:
    """Give each bank the tuners' layers of its candidates (`bank.tuned`), and write the initial values.

    Banks that have theirs keep them. In a model that is loaded without memory for weights PyTorch would put the tuners'
    there too: they are built at the first pass.
    """
    if any(weight.is_meta for bank in banks for weight in bank.parameters()):
        for bank in banks:
            bank.__dict__["later"] = tuple(banks)
        return
    _wire_fresh(banks, write=True)


def layers_of(bank: Bank) -> list[Tuned | None]:
    """The tuners' layers of the candidates at a bank's place."""
    if later := bank.__dict__.pop("later", None):
        for other in later:
            other.__dict__.pop("later", None)
        _wire_fresh(later, write=False)
    layers: list[Tuned | None] = bank.__dict__["tuned"]
    return layers


def _wire_fresh(banks: Sequence[Bank], write: bool) -> None:
    with torch.inference_mode(False):
        _wire_all([bank for bank in banks if "tuned" not in bank.__dict__], write)


def _wire_all(fresh: Sequence[Bank], write: bool) -> None:
    shells: dict[tuple[int, int], nn.Module] = {}
    for bank in fresh:
        bank.__dict__["tuned"] = [None] * len(bank.methods)
    for k in range(max((len(bank.methods) for bank in fresh), default=0)):
        groups: dict[Any, list[Bank]] = {}
        for bank in fresh:
            if k < len(bank.methods) and bank.methods[k] is not None:
                groups.setdefault(bank.method.bank_options(), []).append(bank)
        for group in groups.values():
            _wire(group, k, shells, write)


def flats(bank: Bank, k: int, tuned: Tuned) -> tuple[Flat, Flat]:
    """(The place's own weights, the model's) of candidate k."""
    return _flat(bank, k), _EMPTY if bank.shared is None else _flat(bank.shared, k)


def stored(banks: Sequence[Bank], k: int) -> dict[str, torch.Tensor]:
    """What PEFT stores of candidate k's tuners."""
    layers = [(bank, tuned) for bank in banks if (tuned := bank.__dict__["tuned"][k]) is not None]
    for bank, tuned in layers:
        tuned.take(*flats(bank, k, tuned))
    containers = {id(tuned.container): tuned.container for _, tuned in layers}
    return {name: tensor for container in containers.values() for name, tensor in container.state().items()}


def _wire(banks: Sequence[Bank], k: int, shells: dict[tuple[int, int], nn.Module], write: bool) -> None:
    """One candidate's tuner of one setting, over all its layers."""
    method = cast("PeftBlock", banks[0].methods[k])
    banks = sorted(banks, key=lambda bank: (bank.layer, ORDER.index(bank.site)))
    modules = {_name(bank): _shell(bank.place, shells) for bank in banks}
    maps = {_name(bank): _map(bank, modules[_name(bank)]) for bank in banks}
    distinct = tuple(sorted({m.place: m for m in maps.values()}.values(), key=lambda m: ORDER.index(m.place)))
    found = profile(method.setting, distinct, method.verdict.on_meta)
    pairs = {name: (maps[name], modules[name]) for name in modules}
    layers, values = tune(method.setting, found, pairs, banks[0].seeds[k])
    with torch.no_grad():
        for bank in banks:
            bank.__dict__["tuned"][k] = layers[_name(bank)]
            own, shared = flats(bank, k, layers[_name(bank)])
            if write:
                values[_name(bank)].write(own, shared)
                layers[_name(bank)].write_kept(own, shared)


def _name(bank: Bank) -> str:
    name = bank.place.name if bank.place.rows_of is None else f"{bank.place.name}.{bank.site}"
    return f"layers.{bank.layer}.{name}"


def _map(bank: Bank, module: nn.Module) -> Map:
    weight = cast(torch.Tensor, module.weight)
    wide_out, wide_in = weight.shape[0], weight.shape[-1]
    return Map(bank.site, _name(bank).split(".", 2)[2], wide_in, wide_out, getattr(module, "bias", None) is not None)


def _shell(place: Place, shells: dict[tuple[int, int], nn.Module]) -> nn.Module:
    """A plain module in fp32 for a place, one for all candidates: its weights may be a copy."""
    key = id(place.module), place.rows_of.start if place.rows_of else 0
    if key not in shells:
        weight, bias = place.weight(), place.bias()
        made: Any = nn.Linear(1, 1, bias is not None, device="meta")
        if weight.dim() == 2:
            made.in_features, made.out_features = weight.shape[1], weight.shape[0]
        else:
            made = shell(place.module)
        made._parameters = {"weight": nn.Parameter(weight, requires_grad=False)}
        if bias is not None or weight.dim() == 2:
            made._parameters["bias"] = None if bias is None else nn.Parameter(bias, requires_grad=False)
        shells[key] = made
    return copy.copy(shells[key])


def _flat(bank: Bank, k: int) -> Flat:
    def part(name: str) -> torch.Tensor:
        return bank.weight(name)[k] if name in bank.declared else _NOTHING

    return Flat(part("trained"), part("fixed"))


_NOTHING = torch.zeros(0)
_EMPTY = Flat(_NOTHING, _NOTHING)
