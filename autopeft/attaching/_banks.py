"""All weights of K hybrids on one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from autopeft.anatomy import INPUT, ModelShape, layers_of
from autopeft.doors import door
from autopeft.errors import AutopeftError, shown
from autopeft.hybrid import Hybrid, shared_names
from autopeft.methods import Method
from autopeft.methods._bank import SHARED, Bank, Corner
from autopeft.methods._weights import SAVED, Kind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Of one candidate, by name: a weight [k_i, ...], and where in it the candidate's own part lies.
Parts = dict[str, tuple[torch.Tensor, Corner]]


class Banks(nn.Module):
    """All weights of K hybrids: `layers.<i>.<site>.<method>` is a bank, and so are `model.input.<method>`, of what acts
    before the layers, and `shared.<method>`, of what the places of a method share.

    Banks of layer i hold the first k_i candidates, those with `starts[k] <= i` (all of them by default).
    """

    def __init__(
        self,
        hybrids: Sequence[Hybrid],
        shape: ModelShape,
        seeds: Sequence[int],
        starts: Sequence[int] | None = None,
        vocabulary: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        starts = starts or [0] * len(hybrids)
        if list(starts) != sorted(starts):
            raise ValueError(f"candidates must be in the order of their starts, not {starts}")
        for hybrid, start in zip(hybrids, starts, strict=True):
            hybrid.check_room(shape)
            if start > hybrid.first_adapted:
                raise ValueError(f"a hybrid that adapts layer {hybrid.first_adapted} cannot start at layer {start}")
        for seed in seeds:
            _check_seed(seed)
        self._shared_names = [shared_names(hybrid, shape) for hybrid in hybrids]
        prompts = {
            name: Bank(members, shape, INPUT, seeds, vocabulary=vocabulary)
            for _, name, members in _groups([hybrid.model for hybrid in hybrids], shape)
        }
        self.model = nn.ModuleDict({INPUT: nn.ModuleDict(prompts)} if prompts else {})
        self.shared = nn.ModuleDict()
        shared = self._shared(hybrids, shape, seeds)
        self.layers = nn.ModuleDict()
        for i in range(shape.layers):
            sites: dict[str, dict[str, Bank]] = {}
            there = sum(start <= i for start in starts)
            own = shape.at(i)
            for site, name, members in _groups([h.layers[i] for h in hybrids[:there]], own):
                bank = Bank(members, own, site, seeds[:there], i)
                bank.__dict__["shared"] = shared.get((bank.method.bank_name, bank.method.bank_options()))
                sites.setdefault(site, {})[name] = bank
            if sites:
                self.layers[str(i)] = _nested(sites)

    def _shared(self, hybrids: Sequence[Hybrid], shape: ModelShape, seeds: Sequence[int]) -> dict[Any, Bank]:
        members: dict[tuple[str, Any], list[Method | None]] = {}
        for k, hybrid in enumerate(hybrids):
            for method in (m for m in hybrid.sharing(shape) if m.shared(shape)):
                members.setdefault((method.bank_name, method.bank_options()), [None] * len(hybrids))[k] = method
        found = {}
        for (name, options), methods in sorted(members.items(), key=lambda item: str(item[0])):
            bank = found[name, options] = Bank(methods, shape, SHARED, seeds)
            self.shared[_numbered(name, self.shared)] = bank
        return found

    @property
    def prompts(self) -> list[Bank]:
        """The banks at the model's input, in the order in which their vectors stand."""
        found: Any = dict(self.model.items()).get(INPUT, {})
        return list(found.values())

    @property
    def input_tokens(self) -> int:
        """By how many vectors sequences are longer than their texts."""
        return sum(max(bank.columns) for bank in self.prompts)

    def at(self, layer: int) -> dict[str, list[Bank]]:
        """The banks of a layer by site, in the order in which they act."""
        found: dict[str, list[Bank]] = {}
        inside: Any = dict(self.layers.items()).get(str(layer))
        for bank in inside.modules() if inside is not None else ():
            if isinstance(bank, Bank):
                found.setdefault(bank.site, []).append(bank)
        return found

    def named_banks(self) -> Iterator[tuple[str, Bank]]:
        """All banks by their names, without the number that one got among others of its method."""
        for name, bank in self.named_modules():
            if isinstance(bank, Bank):
                yield f"{name.rpartition('.')[0]}.{bank.method.bank_name}", bank

    def wired(self) -> None:
        """Tell the methods that their banks are at their places, each class of methods once."""
        by_class: dict[type[Method], list[Bank]] = {}
        for _, bank in self.named_banks():
            if bank.layer is not None:
                by_class.setdefault(type(bank.method), []).append(bank)
        for method, banks in by_class.items():
            method.wired(banks)

    def parts(self, candidate: int = 0, *kinds: Kind) -> Parts:
        """By `<bank>.<weight>`: the tensor, and where in it one candidate's own part lies; trained ones by default."""
        return {
            f"{self._name_of(name, bank, candidate)}.{w}": (bank.weight(w), at)
            for name, bank in self.named_banks()
            for w, at in bank.corners(candidate).items()
            if bank.declared[w].kind in (kinds or ("trained",))
        }

    def _name_of(self, name: str, bank: Bank, candidate: int) -> str:
        """A bank's name among a candidate's own: what its layers share has numbers of its own."""
        if bank.layer is not None:
            return name
        return self._shared_names[candidate].get((bank.method.bank_name, bank.method.bank_options()), name)

    def weights(self, candidate: int = 0) -> dict[str, torch.Tensor]:
        """One candidate's weights at their own sizes, trained and frozen ones, views by name."""
        return {name: weight[corner] for name, (weight, corner) in self.parts(candidate, *SAVED).items()}

    def trained_count(self, candidate: int = 0) -> int:
        """How many entries of a candidate's weights are trained."""
        return sum(bank.trained_count(candidate) for _, bank in self.named_banks())

    def place(self, model: PreTrainedModel) -> Self:
        """Put each layer's banks where that layer is: a model may be spread over devices."""
        first, layers = next(model.parameters()).device, layers_of(model)
        self.shared.to(first)
        self.model.to(first)
        for i, banks in self.layers.items():
            own = next(layers[int(i)].parameters()).device
            # A layer that is loaded from the disk or the CPU when it is used has no device now.
            banks.to(first if own.type == "meta" else own)
        return self

    def _replicate_for_data_parallel(self) -> Self:
        """Refused: replicas' hooks would find the first device's weights."""
        raise AutopeftError(
            "hybrids do not run in torch.nn.DataParallel; use DistributedDataParallel (start the script with "
            "'accelerate launch' or 'torchrun'), or let the process see one GPU only (CUDA_VISIBLE_DEVICES=0)"
        )

    @torch.no_grad()
    def load(self, weights: Mapping[str, torch.Tensor], candidate: int = 0) -> None:
        """Set one candidate's weights to what `weights()` gave."""
        own = self.weights(candidate)
        if own.keys() != weights.keys():
            raise KeyError(f"weights do not fit the hybrid: {sorted(own.keys() ^ weights.keys())[:3]}")
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def _nested(sites: Mapping[str, Mapping[str, Bank]]) -> nn.ModuleDict:
    """`<site>.<method>`; that of `cross.q` is three deep, as no module's name has a dot in it."""
    tree = nn.ModuleDict()
    for site, banks in sites.items():
        *path, last = site.split(".")
        inside: Any = tree
        for part in path:
            if part not in inside:
                inside[part] = nn.ModuleDict()
            inside = inside[part]
        inside[last] = nn.ModuleDict(banks)
    return tree


def _check_seed(seed: int) -> None:
    with door(f"seed {shown(seed)}", "is no whole number of 64 bits"):
        torch.Generator().manual_seed(seed)


def _groups(layers: Sequence[tuple[Method, ...]], shape: ModelShape) -> list[tuple[str, str, list[Method | None]]]:
    """(site, name, the K candidates' methods or None) of one layer, in the order in which banks are built and act.

    Candidates share a bank when kind, site and bank options agree; a bank of other options gets a number in its name.
    """
    found: dict[tuple[Any, ...], list[Method | None]] = {}
    for k, methods in enumerate(layers):
        for method in methods:
            for site in method.places(shape):
                single = method.at(site)
                place = (method.stage, method.bank_name, method.allowed_sites.index(site), site, single.bank_options())
                found.setdefault(place, [None] * len(layers))[k] = single
    names: dict[str, dict[str, None]] = {}
    groups = []
    for (_, method_name, _, site, _), members in sorted(found.items()):
        there = names.setdefault(site, {})
        name = _numbered(method_name, there)
        there[name] = None
        groups.append((site, name, members))
    return groups


def _numbered(name: str, taken: Any) -> str:
    """The name, with the first number that makes it a new one."""
    count = next(n for n in range(len(taken) + 1) if (f"{name}{n}" if n else name) not in taken)
    return f"{name}{count}" if count else name
