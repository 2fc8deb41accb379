"""The part of a model that holds the banks of all its adapters, and has one of them act."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from autopeft.adapter_keys import BANKS, WRAPPED
from autopeft.attaching import Banks, Hooks
from autopeft.errors import AutopeftError
from autopeft.packing_bits import STATE, add_states, packed, unpacked


class HybridLayer(nn.Module, BaseTunerLayer):
    """Holds the banks of every adapter of the model and wires the active one; stands at the model's root."""

    adapter_layer_names = (BANKS,)
    other_param_names = ()

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Not a submodule: this layer is the model's child, and must not be its parent too.
        self.__dict__["owner"] = model
        self.autopeft_banks = nn.ModuleDict()
        self._disable_adapters = False
        self._active_adapter: list[str] = []
        self.merged_adapters: list[str] = []
        self._hooks: Hooks | None = None
        # By adapter, its weights as they were drawn, with their versions; and the hook that looks at them.
        self._awaited: dict[str, list[tuple[nn.Parameter, int]]] = {}
        self._look: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Never called: the banks act through hooks."""
        raise NotImplementedError("the hybrid acts through hooks on the backbone's modules")

    def add(self, name: str, banks: Banks) -> None:
        """Add an adapter; the first one becomes active."""
        add_states(banks)
        self.autopeft_banks[name] = banks
        if not self._active_adapter:
            self._active_adapter = [name]
        self._wire()

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Make one adapter the active one; hybrids cannot be active together."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if len(names) > 1:
            raise ValueError(f"one hybrid can be active at a time, not {names}")
        if unknown := [name for name in names if name not in self.autopeft_banks]:
            raise ValueError(f"no adapter '{unknown[0]}'; there are: {', '.join(self.autopeft_banks)}")
        super().set_adapter(names, inference_mode=inference_mode)
        self._wire()

    def enable_adapters(self, enabled: bool) -> None:
        """Switch the hybrid on or off, and the heads that were trained with it."""
        super().enable_adapters(enabled)
        for module in self.__dict__["owner"].modules():
            # Transformers switches heads off, but not on again.
            if isinstance(module, AuxiliaryTrainingWrapper):
                module.enable_adapters(enabled)
        self._wire()

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget an adapter's weights."""
        self.unwire()
        super().delete_adapter(adapter_name)
        self._wire()

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Called by PEFT after loading: banks stay fp32 and go where the backbone is."""
        banks = cast(Banks, self.autopeft_banks[adapter_name])
        if any(parameter.is_meta for parameter in banks.parameters()):
            return
        if device is None:
            banks.place(self.__dict__["owner"])
        else:
            banks.to(device)

    def await_weights(self, name: str) -> None:
        """Have the first pass through the model refuse if transformers' `load_adapter` did not set all weights.

        It only logs what it does not find, and offers nothing to hook into while it loads.
        """
        self._awaited[name] = [(p, p._version) for p in self.autopeft_banks[name].parameters()]
        self._look = self._look or self.__dict__["owner"].register_forward_pre_hook(self._check_arrived)

    def stop_awaiting(self) -> None:
        """Look no more whether weights have come."""
        if self._look is not None:
            self._look.remove()
        self._awaited, self._look = {}, None

    def _check_arrived(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        for name, drawn in self._awaited.items() if getattr(model, "_hf_peft_config_loaded", False) else ():
            now = self.autopeft_banks[name].parameters() if name in self.autopeft_banks else ()
            if any(p is old and p._version == version for p, (old, version) in zip(now, drawn, strict=False)):
                raise AutopeftError(
                    f"adapter '{name}': the file lacks some of its weights, or an older autopeft wrote it; use "
                    f"PEFT's PeftModel.from_pretrained to load it (saved again, transformers loads it too)"
                )
        self.stop_awaiting()

    def unwire(self) -> None:
        """Take the hooks off the model."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    def _wire(self) -> None:
        self.unwire()
        active = [n for n in self._active_adapter if n in self.autopeft_banks]
        if active and not self._disable_adapters:
            self._hooks = Hooks(self.__dict__["owner"], cast(Banks, self.autopeft_banks[active[0]]))


def own_keys(model: nn.Module, adapter: str) -> list[str]:
    """Names, in a model (wrapped or not), of an adapter's weights without its head."""
    for path, banks in _banks_of(model, adapter):
        return [f"{path}.{BANKS}.{adapter}.{name}" for name in banks.state_dict() if not name.endswith(STATE)]
    return []


def as_stored(model: nn.Module, adapter: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An adapter's own tensors, by the model's names, in the form that files have (see `autopeft.packing_bits`)."""
    for path, banks in _banks_of(model, adapter):
        prefix = f"{path}.{BANKS}.{adapter}."
        own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
        return {f"{prefix}{name}": tensor for name, tensor in packed(banks, own).items()}
    return tensors


def as_dense(model: nn.Module, adapter: str, stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A file's tensors, by its names, with an adapter's own ones unpacked; `AutopeftError` where one is damaged."""
    for path, banks in _banks_of(model, adapter):
        prefix = f"{path.removeprefix(WRAPPED)}.{BANKS}."
        own = {key: key.removeprefix(WRAPPED) for key in stored}
        own = {key: bare.removeprefix(prefix) for key, bare in own.items() if bare.startswith(prefix)}
        dense = unpacked(banks, {name: stored[key] for key, name in own.items()})
        rest = {key: tensor for key, tensor in stored.items() if key not in own}
        return rest | {f"{WRAPPED}{prefix}{name}": tensor for name, tensor in dense.items()}
    return dict(stored)


def _banks_of(model: nn.Module, adapter: str) -> Iterator[tuple[str, Banks]]:
    """Where the layer of the adapters is, and the banks of one; one of them at most."""
    for path, module in model.named_modules():
        if isinstance(module, HybridLayer):
            yield path, cast(Banks, module.autopeft_banks[adapter])
