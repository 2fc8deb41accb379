"""Weights that take fewer bits than they have in memory, as files hold them: between a bank and packed tensors.

What a weight declares (`Weight.storage`) says how: a mask as bits (uint8, eight entries each, the first one highest);
few values of a large tensor as themselves, beside a mask that is bits or places (int32, ascending, row-major). Only
what comes back to the bit is packed; the rest, such as scores in the middle of a training, stays as it is.

A packed tensor's name is `<weight>_<storage>._extra_state`: PyTorch's for what a module has beside weights, which
transformers' loader, too, hands over to the module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from autopeft.errors import AutopeftError
from autopeft.methods._bank import Bank
from autopeft.methods._weights import Storage

#: The last part of a packed tensor's name.
STATE = "_extra_state"
_DTYPES: Mapping[Storage, torch.dtype] = {"bits": torch.uint8, "places": torch.int32, "values": torch.float32}
_REMEDY = "load both files of one export, or export it again"

Tensors = dict[str, torch.Tensor]


def is_packed(name: str, tensor: torch.Tensor) -> bool:
    """Whether a file's tensor is one of ours that holds bits or places."""
    return any(name.endswith(f"_{how}.{STATE}") and tensor.dtype == _DTYPES[how] for how in ("bits", "places"))


def packed(banks: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """An adapter's `tensors` (those of `banks`, by name there) with what can be packed in its packed form."""
    made = dict(tensors)
    for path, bank in _banks(banks):
        own = {name: made[f"{path}.{name}"] for name in _storages(bank) if f"{path}.{name}" in made}
        for name, how, tensor in _pack(bank, own):
            del made[f"{path}.{name}"]
            made[f"{path}.{name}_{how}.{STATE}"] = tensor
    return made


def unpacked(banks: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """`packed` undone; dense tensors, and names that the banks do not know, stay.

    `AutopeftError` for a packed tensor that is not of its weight's size, or is damaged.
    """
    made = dict(tensors)
    for path, bank in _banks(banks):
        found = {
            name: made.pop(key)
            for name, how in _storages(bank).items()
            if (key := f"{path}.{name}_{how}.{STATE}") in made
        }
        made |= {f"{path}.{name}": tensor for name, tensor in _unpack(path, bank, found, made).items()}
    return made


@torch.no_grad()
def make_storable(banks: nn.Module) -> None:
    """Set one candidate's weights to what computes the same and packs: masks for scores, zeros for what is masked."""
    for _, bank in _banks(banks):
        method, at = bank.methods[0], bank.corners(0)
        own = {name: bank.weight(name)[corner] for name, corner in at.items()}
        if method is None or not _storages(bank):
            continue
        for name, tensor in method.as_bits(own).items():
            own[name].copy_(tensor)
        for name in _masked(bank):
            own[name].mul_(own[f"{name}_mask"])


class PackedState(nn.Module):
    """Takes the packed form of a bank's weight where a loader sets tensors one by one, and unpacks it into the bank.

    What is loaded through `load_state_dict`, and saved, is the bank's own dense weight.
    """

    def __init__(self, path: str, bank: Bank, name: str, how: Storage) -> None:
        super().__init__()
        # Not a submodule: this is the bank's child.
        self.__dict__["bank"] = bank
        self.path, self.weight_name, self.how = path, name, how
        self.waiting: torch.Tensor | None = None

    def get_extra_state(self) -> torch.Tensor:
        """Nothing, of the type that is taken: loaders look it up."""
        return torch.empty(0, dtype=_DTYPES[self.how])

    @torch.no_grad()
    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take a packed tensor; values and their mask wait for each other."""
        self.waiting = state
        bank = cast(Bank, self.__dict__["bank"])
        pair = next((name for name in _masked(bank) if self.weight_name in (name, f"{name}_mask")), None)
        names = (self.weight_name,) if pair is None else (pair, f"{pair}_mask")
        states = [s for s in bank.children() if isinstance(s, PackedState) and s.weight_name in names]
        found = {s.weight_name: s.waiting for s in states if s.waiting is not None}
        if len(found) < len(states):
            return
        for taken in states:
            taken.waiting = None
        for name, tensor in _unpack(self.path, bank, found, {}).items():
            bank.weight(name).copy_(tensor)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """The dense weights are there."""


def add_states(banks: nn.Module) -> None:
    """Have `banks` take packed tensors from loaders that know only modules (`PackedState`)."""
    for path, bank in _banks(banks):
        for name, how in _storages(bank).items():
            bank.add_module(f"{name}_{how}", PackedState(path, bank, name, how))


def _banks(banks: nn.Module) -> Iterator[tuple[str, Bank]]:
    return ((path, bank) for path, bank in list(banks.named_modules()) if isinstance(bank, Bank))


def _masked(bank: Bank) -> list[str]:
    """Names of weights of which few values are stored."""
    return [name for name, how in _storages(bank).items() if how == "values"]


def _storages(bank: Bank) -> dict[str, Storage]:
    """How weights are stored that are not dense; of a mask's places without its values, and the reverse, none is."""
    found: dict[str, Storage] = {name: w.storage for name, w in bank.declared.items() if w.kind != "state"}
    pairs = {name for name, how in found.items() if how == "values" and found.get(f"{name}_mask") in ("bits", "places")}
    pairs |= {f"{name}_mask" for name in pairs}
    return {name: how for name, how in found.items() if how == "bits" or name in pairs}


def _pack(bank: Bank, own: Tensors) -> Iterator[tuple[str, Storage, torch.Tensor]]:
    """(Name, storage, packed tensor) of what comes back the same: a mask and its values together or neither."""
    storages, masked = _storages(bank), [name for name in _masked(bank) if name in own]
    flat = {name: tensor.detach().cpu().flatten() for name, tensor in own.items() if not tensor.is_meta}
    binary = {n for n, t in flat.items() if storages[n] != "values" and bool(((t == 0) | (t == 1)).all())}
    with_values = {
        name for name in masked if f"{name}_mask" in binary and not bool(flat[name][flat[f"{name}_mask"] == 0].any())
    }
    alone = {f"{name}_mask" for name in masked} - {f"{name}_mask" for name in with_values}
    for name in sorted((binary - alone) | with_values):
        if storages[name] == "bits":
            yield name, "bits", torch.from_numpy(np.packbits(flat[name].bool().numpy()))
        elif storages[name] == "places":
            yield name, "places", flat[name].nonzero().flatten().to(torch.int32)
        else:
            yield name, "values", flat[name][flat[f"{name}_mask"] == 1]


def _unpack(path: str, bank: Bank, found: Tensors, dense: Mapping[str, torch.Tensor]) -> Tensors:
    """The dense tensors of packed ones."""
    storages, made = _storages(bank), {}
    for name in sorted(found, key=lambda n: storages[n] == "values"):
        how, shape, tensor = storages[name], bank.weight(name).shape, found[name].detach().cpu()
        place = f"{path}.{name}_{how}.{STATE}"
        if tensor.dim() != 1 or (how != "values" and tensor.dtype != _DTYPES[how]):
            raise AutopeftError(f"{place}: is no row of {_DTYPES[how]}; {_REMEDY}")
        if how == "bits":
            made[name] = _mask_of_bits(place, tensor, shape)
        elif how == "places":
            made[name] = _mask_of_places(place, tensor, shape)
        else:
            mask = made.get(f"{name}_mask", dense.get(f"{path}.{name}_mask"))
            made[name] = _spread(place, tensor, mask, shape)
    return made


def _mask_of_bits(place: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    count, bits = shape.numel(), np.unpackbits(tensor.numpy())
    if len(tensor) != -(-count // 8) or bits[count:].any():
        raise AutopeftError(f"{place}: does not hold the {count} bits of a mask {tuple(shape)}; {_REMEDY}")
    return torch.from_numpy(bits[:count].copy()).float().view(shape)


def _mask_of_places(place: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    ordered = bool((tensor[1:] > tensor[:-1]).all())
    if not ordered or (len(tensor) and not 0 <= int(tensor[0]) <= int(tensor[-1]) < shape.numel()):
        raise AutopeftError(f"{place}: its places are not ascending ones of a tensor {tuple(shape)}; {_REMEDY}")
    mask = torch.zeros(shape.numel())
    mask[tensor.long()] = 1
    return mask.view(shape)


def _spread(place: str, values: torch.Tensor, mask: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
    if mask is None or not values.is_floating_point():
        raise AutopeftError(f"{place}: {'its mask is missing' if mask is None else 'holds no values'}; {_REMEDY}")
    there = mask.flatten() == 1
    if mask.shape != shape or int(there.sum()) != len(values):
        raise AutopeftError(f"{place}: {len(values)} values for the {int(there.sum())} places of its mask; {_REMEDY}")
    full = torch.zeros(shape.numel(), dtype=values.dtype)
    full[there] = values
    return full.view(shape)
