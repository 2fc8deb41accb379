"""The wiring between banks and a model's modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autopeft.anatomy import Family, ModelShape, Rows, hidden_of, joined, layers_of, stacks_of, with_hidden
from autopeft.attaching._banks import Banks
from autopeft.attaching._positions import ByCandidate
from autopeft.attaching._prompts import Prompts
from autopeft.attention import AttentionChoice, set_prefixes
from autopeft.errors import AutopeftError
from autopeft.methods._bank import Bank
from autopeft.methods._place import BatchInput, ModuleInput, Place

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: The maps that embeddings of positions go through, in families that have them.
_POSITIONED = ("q", "k")


class Hooks:
    """Has banks act at their places; weights stay where they are."""

    def __init__(self, model: PreTrainedModel, banks: Banks, attention: str | None = None) -> None:
        self.model = model
        self._handles: list[Any] = []
        self._prefixed: list[nn.Module] = []
        self._by_candidate: list[ByCandidate] = []
        # An encoder and a decoder are given a text each.
        stacks, shape = stacks_of(model), banks.shape
        batches = [BatchInput() for _ in stacks]
        for i, layer in enumerate(layers_of(model)):
            self._wire(layer, shape.at(i), banks.at(i), batches[shape.stack_of(i)])
        banks.wired()
        if any(bank.method.reads_batch for _, bank in banks.named_banks()):
            for stack, batch in zip(stacks, batches, strict=True):
                self._handles.append(stack.register_forward_pre_hook(batch, with_kwargs=True, prepend=True))
                self._handles.append(stack.register_forward_hook(batch.forget, always_call=True))
        self._choice: AttentionChoice | None = None
        if self._prefixed or (attention and shape.row.prefix):
            self._choice = AttentionChoice(model, attention)
            self._handles += [stack.register_forward_pre_hook(self._choice.base) for stack in stacks]
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
        for positions in self._by_candidate:
            positions.undo()
        if self._choice:
            self._choice.undo()

    def _wire(self, layer: nn.Module, shape: ModelShape, sites: Mapping[str, list[Bank]], batch: BatchInput) -> None:
        by_module, positions = dict[str, SiteHook](), self._positions(layer, shape.row, sites)
        for site, banks in sites.items():
            at = shape.row.site(site)
            rows = shape.rows(site) if at.parts > 1 else None
            module = layer.get_submodule(at.module)
            for bank in banks:
                bank.__dict__["place"] = Place(module, batch, at.module, rows)
            if site == "attention":
                set_prefixes(module, banks)
                self._prefixed.append(module)
                self._keep_input(module, [bank for bank in banks if bank.method.reads_batch])
            elif site.endswith("_in"):
                self._handles.append(module.register_forward_pre_hook(InputHook(banks)))
            elif site == "layer":
                # First of all hooks: `output_hidden_states` is recorded by one that stands there already.
                hook = SiteHook(None, [(None, bank) for bank in banks])
                self._handles.append(layer.register_forward_hook(LayerHook(hook), prepend=True))
            else:
                hook = by_module.setdefault(at.module, SiteHook(self._block_input(layer, shape.row, banks)))
                hook.positions = positions if site in _POSITIONED else None
                hook.banks += [(rows, bank) for bank in banks]
        for name, hook in by_module.items():
            self._handles.append(layer.get_submodule(name).register_forward_hook(hook))

    def _positions(self, layer: nn.Module, row: Family, sites: Mapping[str, list[Bank]]) -> ByCandidate | None:
        banks = [bank for site in _POSITIONED for bank in sites.get(site, ())]
        if row.positions is None or not banks:
            return None
        for bank in banks:
            if bank.method.reads_batch:
                raise AutopeftError(
                    f"'{bank.method.label}' at {bank.site} depends on the text, but models of this family put "
                    "positions through the same map; take other sites"
                )
        found = ByCandidate(layer.get_submodule(row.attention), row.positions, len(banks[0].methods))
        self._by_candidate.append(found)
        return found

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
    """Applies banks to the output of one module (or to their rows of it, where several maps are fused)."""

    def __init__(self, block: ModuleInput | None, banks: Sequence[tuple[Rows | None, Bank]] = ()) -> None:
        self.block, self.banks = block, list(banks)
        self.positions: ByCandidate | None = None

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """A forward hook."""
        block_input = self.block.take() if self.block else None
        if output.dim() == 2:
            return self._flat(args, output, block_input)
        return self._changed(args, output, block_input)

    def _flat(
        self, args: tuple[torch.Tensor, ...], output: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """The same where a layer puts all tokens of all sequences side by side, as OPT does."""
        given = (_apart(args[0], self.banks[0][1]),)
        block = None if block_input is None else _apart(block_input, self.banks[0][1])
        _check_flat([bank for _, bank in self.banks])
        return self._changed(given, _apart(output, self.banks[0][1]), block).flatten(0, 1)

    def _changed(
        self, args: tuple[torch.Tensor, ...], output: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """The output as changed by the banks."""
        if self.positions:
            args, output = (self.positions.own(args[0]),), self.positions.own(output)
        parts: dict[Rows, torch.Tensor] = {}
        for rows, bank in self.banks:
            if rows is None:
                output = bank(output, args[0], block_input)
            else:
                own = parts[rows] if rows in parts else rows.of(output, -1)
                parts[rows] = bank(own, args[0], block_input)
        output = joined(output, parts.items()) if parts else output
        return self.positions.chosen(output) if self.positions else output


class LayerHook:
    """Applies banks to a layer's output, which may stand beside its attention's weights."""

    def __init__(self, hook: SiteHook) -> None:
        self.hook = hook

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: Any) -> Any:
        """A forward hook."""
        return with_hidden(output, self.hook(module, args, hidden_of(output)))


class InputHook:
    """Applies banks to what a module is given."""

    def __init__(self, banks: Sequence[Bank]) -> None:
        self.banks = list(banks)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A forward pre-hook."""
        flat, given = args[0].dim() == 2, args[0]
        if flat:
            _check_flat(self.banks)
            given = _apart(given, self.banks[0])
        changed = given
        for bank in self.banks:
            changed = bank(changed, given, None)
        return (changed.flatten(0, 1) if flat else changed, *args[1:])


def _apart(x: torch.Tensor, bank: Bank) -> torch.Tensor:
    """Tokens [N*L, d] of all candidates as one sequence a candidate, [K, B*L, d]."""
    return x.unflatten(0, (len(bank.methods), -1))


def _check_flat(banks: Sequence[Bank]) -> None:
    """`AutopeftError` for methods that must know where a text begins."""
    for bank in banks:
        if bank.method.reads_batch or not bank.method.tokenwise:
            raise AutopeftError(
                f"'{bank.method.label}' at {bank.site} depends on whole texts, but layers of this family put all "
                "tokens side by side there; take other sites"
            )
