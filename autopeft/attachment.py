"""Put hybrids on a backbone and take them off again, without touching its weights."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from autopeft.anatomy import Family, ModelShape, family_of, head_names, layers_of, shape_of
from autopeft.attention import AttentionChoice, set_prefix
from autopeft.doors import door
from autopeft.errors import AutopeftError, shown
from autopeft.hybrid import Hybrid
from autopeft.methods import Method
from autopeft.methods._bank import Bank

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: The submodule of the model that holds the banks while hybrids are attached.
NAME = "autopeft"


class Banks(nn.Module):
    """All weights of K hybrids: `layers.<i>.<site>.<method>` is a bank.

    Banks of layer i hold the first k_i candidates, those with `starts[k] <= i` (all of them by default).
    """

    def __init__(
        self, hybrids: Sequence[Hybrid], shape: ModelShape, seeds: Sequence[int], starts: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        starts = starts or [0] * len(hybrids)
        if list(starts) != sorted(starts):
            raise ValueError(f"candidates must be in the order of their starts, not {starts}")
        for hybrid, start in zip(hybrids, starts, strict=True):
            hybrid.check_room(shape)
            if start > hybrid.first_adapted:
                raise ValueError(f"a hybrid that adapts layer {hybrid.first_adapted} cannot start at layer {start}")
        generators = [_generator(seed) for seed in seeds]
        self.layers = nn.ModuleDict()
        for i in range(shape.layers):
            sites: dict[str, dict[str, Bank]] = {}
            there = sum(start <= i for start in starts)
            for site, name, members in _groups([h.layers[i] for h in hybrids[:there]]):
                sites.setdefault(site, {})[name] = Bank(members, shape, site, generators[:there])
            if sites:
                self.layers[str(i)] = nn.ModuleDict({site: nn.ModuleDict(banks) for site, banks in sites.items()})

    def at(self, layer: int) -> dict[str, list[Bank]]:
        """The banks of a layer by site, in the order in which they act."""
        sites: Any = dict(self.layers.items()).get(str(layer), {})
        return {site: list(banks.values()) for site, banks in sites.items()}

    def parts(self, candidate: int = 0) -> dict[str, tuple[nn.Parameter, tuple[int | slice, ...]]]:
        """By `layers.<i>.<site>.<method>.<weight>`: the parameter, and where in it one candidate's own part lies."""
        found: dict[str, tuple[nn.Parameter, tuple[int | slice, ...]]] = {}
        for name, bank in self.named_modules():
            if isinstance(bank, Bank):
                # Not the bank's own name: which number it got depends on the other candidates.
                name = f"{name.rpartition('.')[0]}.{bank.method.name}"
                found |= {f"{name}.{w}": (bank.get_parameter(w), at) for w, at in bank.corners(candidate).items()}
        return found

    def weights(self, candidate: int = 0) -> dict[str, torch.Tensor]:
        """One candidate's weights at their own sizes, views by name."""
        return {name: parameter[corner] for name, (parameter, corner) in self.parts(candidate).items()}

    def place(self, model: PreTrainedModel) -> Self:
        """Put each layer's banks where that layer is: a model may be spread over devices."""
        first, layers = next(model.parameters()).device, layers_of(model)
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


class Attachment:
    """Hybrids on a model. Use as a context manager, or call `detach()`.

    While attached: the backbone is frozen, the head (if there is one) and `model.autopeft` are trainable. K hybrids
    take inputs of K*B sequences, candidate-major; with `starts`, layer i takes those of the candidates that have
    started there or below (see `Banks`). After detaching the model is as before, to the bit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        hybrids: Hybrid | Sequence[Hybrid],
        seeds: int | Sequence[int] = 0,
        attention: str | None = None,
        starts: Sequence[int] | None = None,
    ) -> None:
        hybrids = [hybrids] if isinstance(hybrids, Hybrid) else list(hybrids)
        seeds = [seeds] * len(hybrids) if isinstance(seeds, int) else list(seeds)
        if hasattr(model, NAME):
            raise ValueError("the model has hybrids attached already; detach them first")
        self.model = model
        self.banks = Banks(hybrids, shape_of(model), seeds, starts).place(model)
        self._trainable = {name: p.requires_grad for name, p in model.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(tuple(f"{head}." for head in head_names(model))))
        self.hooks = Hooks(model, self.banks, attention)
        model.add_module(NAME, self.banks)

    def detach(self) -> None:
        """Take the hybrids off; a second call does nothing."""
        if getattr(self.model, NAME, None) is not self.banks:
            return
        self.hooks.remove()
        delattr(self.model, NAME)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._trainable[name])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def attach(model: PreTrainedModel, hybrid: Hybrid, seed: int = 0) -> Attachment:
    """Put one hybrid on a model, for a training loop of your own.

    ```python
    with autopeft.attach(model, hybrid):
        ...  # train model.parameters() with requires_grad
    ```
    """
    return Attachment(model, hybrid, seed)


class Hooks:
    """The wiring between banks and a model's modules; weights stay where they are."""

    def __init__(self, model: PreTrainedModel, banks: Banks, attention: str | None = None) -> None:
        self.model = model
        self._handles: list[Any] = []
        self._prefixed: list[nn.Module] = []
        family = family_of(model.config)
        for i, layer in enumerate(layers_of(model)):
            self._wire(layer, family, banks.at(i))
        self._choice: AttentionChoice | None = None
        if self._prefixed or attention:
            self._choice = AttentionChoice(model, attention)
            self._handles.append(model.base_model.register_forward_pre_hook(self._choice.base))
            self._handles += [m.register_forward_pre_hook(self._choice.module) for m in self._prefixed]

    def remove(self) -> None:
        """Undo everything."""
        for handle in self._handles:
            handle.remove()
        for module in self._prefixed:
            set_prefix(module, None)
        if self._choice:
            self._choice.undo()

    def _wire(self, layer: nn.Module, family: Family, sites: Mapping[str, list[Bank]]) -> None:
        by_module: dict[str, SiteHook] = {}
        for site, banks in sites.items():
            if site == "attention":
                attention = layer.get_submodule(family.attention)
                set_prefix(attention, banks[0])
                self._prefixed.append(attention)
                continue
            place = family.site(site)
            hook = by_module.setdefault(place.module, SiteHook(place.parts, self._block_input(layer, family, banks)))
            hook.banks += [(place.index, bank) for bank in banks]
        for name, hook in by_module.items():
            self._handles.append(layer.get_submodule(name).register_forward_hook(hook))

    def _block_input(self, layer: nn.Module, family: Family, banks: Sequence[Bank]) -> BlockInput | None:
        if all(bank.method.reads != "block" for bank in banks):
            return None
        keep = BlockInput()
        first = layer.get_submodule(family.site("up").module)
        self._handles.append(first.register_forward_pre_hook(keep))
        # An error between the two maps must not keep activations alive.
        self._handles.append(layer.register_forward_hook(keep.forget, always_call=True))
        return keep


class BlockInput:
    """Keeps what the first map of the feed-forward network is given until its last map has run, for each thread.

    Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._kept = threading.local()

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        """A forward pre-hook."""
        self._kept.value = args[0]

    def take(self) -> torch.Tensor | None:
        """The kept tensor, forgotten here."""
        value: torch.Tensor | None = getattr(self._kept, "value", None)
        self._kept.value = None
        return value

    def forget(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A forward hook of the layer, called after errors too."""
        self._kept.value = None

    def __reduce__(self) -> tuple[type[BlockInput], tuple[()]]:
        return BlockInput, ()


class SiteHook:
    """Applies banks to the output of one linear map (or to slices of it, where the map is fused)."""

    def __init__(self, parts: int, block: BlockInput | None) -> None:
        self.parts, self.block = parts, block
        self.banks: list[tuple[int, Bank]] = []

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """A forward hook."""
        block_input = self.block.take() if self.block else None
        slices = list(output.chunk(self.parts, dim=-1))
        for index, bank in self.banks:
            slices[index] = bank(slices[index], args[0], block_input)
        return slices[0] if self.parts == 1 else torch.cat(slices, dim=-1)


def _generator(seed: int) -> torch.Generator:
    with door(f"seed {shown(seed)}", "is no whole number of 64 bits"):
        return torch.Generator().manual_seed(seed)


def _groups(layers: Sequence[tuple[Method, ...]]) -> list[tuple[str, str, list[Method | None]]]:
    """(site, name, the K candidates' methods or None) of one layer, in the order in which banks are built and act.

    Candidates share a bank when kind, site and bank options agree; a bank of other options gets a number in its name.
    """
    found: dict[tuple[Any, ...], list[Method | None]] = {}
    for k, methods in enumerate(layers):
        for method in methods:
            for site in method.sites:
                single = method.at(site)
                place = (method.stage, method.name, method.allowed_sites.index(site), site, single.bank_options())
                found.setdefault(place, [None] * len(layers))[k] = single
    names: dict[tuple[str, str], int] = {}
    groups = []
    for (_, method_name, _, site, _), members in sorted(found.items()):
        count = names[(site, method_name)] = names.get((site, method_name), -1) + 1
        groups.append((site, method_name if count == 0 else f"{method_name}{count}", members))
    return groups
