"""The wiring between banks and a model's modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autopeft.anatomy import Family, family_of, layers_of
from autopeft.attaching._banks import Banks
from autopeft.attaching._prompts import Prompts
from autopeft.attention import AttentionChoice, set_prefixes
from autopeft.methods._bank import Bank
from autopeft.methods._place import BatchInput, ModuleInput, Place

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Hooks:
    """Has banks act at their places; weights stay where they are."""

    def __init__(self, model: PreTrainedModel, banks: Banks, attention: str | None = None) -> None:
        self.model = model
        self._handles: list[Any] = []
        self._prefixed: list[nn.Module] = []
        self._batch = BatchInput()
        family, layers = family_of(model.config), layers_of(model)
        for i, layer in enumerate(layers):
            self._wire(layer, family, banks.at(i))
        banks.wired()
        if any(bank.method.reads_batch for _, bank in banks.named_banks()):
            base = model.base_model
            self._handles.append(base.register_forward_pre_hook(self._batch, with_kwargs=True, prepend=True))
            self._handles.append(base.register_forward_hook(self._batch.forget, always_call=True))
        self._choice: AttentionChoice | None = None
        if self._prefixed or attention:
            self._choice = AttentionChoice(model, attention)
            self._handles.append(model.base_model.register_forward_pre_hook(self._choice.base))
            self._handles += [m.register_forward_pre_hook(self._choice.module) for m in self._prefixed]
        if banks.prompts:
            # Last, so that their hook is the first: what others read of the batch has the prompts in it.
            self._handles += Prompts(model, banks.prompts).wire(model)

    def remove(self) -> None:
        """Undo everything."""
        for handle in self._handles:
            handle.remove()
        for module in self._prefixed:
            set_prefixes(module, ())
        if self._choice:
            self._choice.undo()

    def _wire(self, layer: nn.Module, family: Family, sites: Mapping[str, list[Bank]]) -> None:
        by_module: dict[str, SiteHook] = {}
        for site, banks in sites.items():
            at = family.site(site)
            module = layer.get_submodule(at.module)
            for bank in banks:
                bank.__dict__["place"] = Place(module, at.index, at.parts, self._batch, at.module)
            if site == "attention":
                set_prefixes(module, banks)
                self._prefixed.append(module)
                self._keep_input(module, [bank for bank in banks if bank.method.reads_batch])
            elif site.endswith("_in"):
                self._handles.append(module.register_forward_pre_hook(InputHook(banks)))
            elif site == "layer":
                # First of all hooks: `output_hidden_states` is recorded by one that stands there already.
                hook = SiteHook(1, None, banks)
                self._handles.append(layer.register_forward_hook(hook, prepend=True))
            else:
                hook = by_module.setdefault(at.module, SiteHook(at.parts, self._block_input(layer, family, banks)))
                hook.banks += [(at.index, bank) for bank in banks]
        for name, hook in by_module.items():
            self._handles.append(layer.get_submodule(name).register_forward_hook(hook))

    def _keep_input(self, module: nn.Module, banks: Sequence[Bank]) -> None:
        if not banks:
            return
        keep = ModuleInput()
        self._handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
        self._handles.append(module.register_forward_hook(keep.forget, always_call=True))
        for bank in banks:
            bank.place.input = keep

    def _block_input(self, layer: nn.Module, family: Family, banks: Sequence[Bank]) -> ModuleInput | None:
        if all(bank.method.reads != "block" for bank in banks):
            return None
        keep = ModuleInput()
        first = layer.get_submodule(family.site("up").module)
        self._handles.append(first.register_forward_pre_hook(keep))
        # An error between the two maps must not keep activations alive.
        self._handles.append(layer.register_forward_hook(keep.forget, always_call=True))
        return keep


class SiteHook:
    """Applies banks to the output of one module (or to slices of it, where a map is fused)."""

    def __init__(self, parts: int, block: ModuleInput | None, banks: Sequence[Bank] = ()) -> None:
        self.parts, self.block = parts, block
        self.banks: list[tuple[int, Bank]] = [(0, bank) for bank in banks]

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """A forward hook."""
        block_input = self.block.take() if self.block else None
        slices = list(output.chunk(self.parts, dim=-1))
        for index, bank in self.banks:
            slices[index] = bank(slices[index], args[0], block_input)
        return slices[0] if self.parts == 1 else torch.cat(slices, dim=-1)


class InputHook:
    """Applies banks to what a module is given."""

    def __init__(self, banks: Sequence[Bank]) -> None:
        self.banks = list(banks)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A forward pre-hook."""
        changed = args[0]
        for bank in self.banks:
            changed = bank(changed, args[0], None)
        return (changed, *args[1:])
