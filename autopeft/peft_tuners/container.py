"""One tuner of PEFT on chosen maps of a backbone, which it only refers to: the backbone is not touched.

PEFT wraps the modules of a model in place. Here the model that it is given is an empty one that holds shells of the
chosen maps under their dotted names. A shell computes with the map's own weights, has no hooks, and is the tuner's to
replace. `Container.layers` are the wrapped maps; their outputs are to the bit those of `peft.get_peft_model`.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from peft import get_peft_model_state_dict
from torch import nn

from autopeft.peft_tuners.setting import Setting, tuner_class

ADAPTER = "default"


class Container:
    """A tuner on shells by dotted name, in evaluation mode and fp32.

    `targets` are endings of the names (`attention.self.query`): tuners that share weights between layers do so by
    them. `inputs` are the endings of those that (IA)3 scales at their input. The global generators stay where they
    were; each layer's weights are drawn by the seed and the layer's name, whatever other layers there are.
    """

    def __init__(
        self,
        setting: Setting,
        shells: Mapping[str, nn.Module],
        targets: Collection[str],
        inputs: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        root = nn.Module()
        for name, module in shells.items():
            _put(root, name, module)
        backbone = {id(p) for module in shells.values() for p in module.parameters()}
        self.setting = setting
        self._wrapped = _Wrapped(_built(setting, root, targets, inputs, seed))
        self.layers: dict[str, nn.Module] = {name: root.get_submodule(name) for name in shells}
        base = {id(p) for p in _bases(self.layers.values())} | backbone
        self.tensors = self._tensors(base)

    def state(self) -> dict[str, torch.Tensor]:
        """What `peft.get_peft_model_state_dict` gives of a model with this tuner."""
        with _quiet():
            return get_peft_model_state_dict(self._wrapped, adapter_name=ADAPTER, save_embedding_layers=False)

    def reachable(self, name: str) -> dict[str, torch.Tensor]:
        """The tuner's own tensors, trained or stored, that one layer holds, by their names in that layer."""
        own = {id(t) for t in self.tensors.values()}
        layer = self.layers[name]
        found: dict[str, torch.Tensor] = dict(layer.named_parameters(remove_duplicate=False))
        found |= dict(layer.named_buffers(remove_duplicate=False))
        return {n: t for n, t in found.items() if id(t) in own}

    def used(self, name: str) -> dict[str, torch.Tensor]:
        """Those that are trained and change what one layer computes."""
        own = {n: t for n, t in self.reachable(name).items() if is_trained(t)}
        if not own:
            return {}
        layer: Any = self.layers[name]
        with torch.enable_grad():
            output = layer(torch.ones(1, 1, in_width(layer), device=next(iter(own.values())).device))
            gradients = torch.autograd.grad(output.sum(), list(own.values()), allow_unused=True)
        return {n: t for (n, t), gradient in zip(own.items(), gradients, strict=True) if gradient is not None}

    def trained(self) -> dict[str, torch.Tensor]:
        """The weights to train by name; one that several maps share is there once."""
        return {name: tensor for name, tensor in self.tensors.items() if is_trained(tensor)}

    def _tensors(self, backbone: set[int]) -> dict[str, torch.Tensor]:
        stored, tuner = set(self.state()), tuner_class(self.setting.type)
        live: dict[str, torch.Tensor] = dict(self._wrapped.named_parameters(remove_duplicate=False))
        live |= dict(self._wrapped.named_buffers(remove_duplicate=False))
        own = {name: tensor for name, tensor in live.items() if id(tensor) not in backbone}
        wanted = {
            id(tensor)
            for name, tensor in own.items()
            if is_trained(tensor) or tuner._remove_adapter_name_from_key(name, ADAPTER) in stored
        }
        # Once each, by the first of its names.
        return {name: t for t, name in {t: name for name, t in reversed(own.items()) if id(t) in wanted}.items()}


class _Wrapped(nn.Module):
    """What PEFT's functions for a `PeftModel` need to find."""

    def __init__(self, tuner: Any) -> None:
        super().__init__()
        self.base_model, self.peft_config = tuner, tuner.peft_config


def is_trained(tensor: torch.Tensor) -> bool:
    """Whether the tuner leaves it to the optimiser."""
    return isinstance(tensor, nn.Parameter) and tensor.requires_grad


def in_width(layer: Any) -> int:
    """The width of what a wrapped map or norm is given."""
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    return int(base.in_features if hasattr(base, "in_features") else base.weight.shape[0])


def shell(module: nn.Module) -> nn.Module:
    """A module that computes what `module` does, with its weights and without its hooks, and may be changed freely."""
    made = copy.copy(module)
    made.__dict__.pop("forward", None)
    for name in [n for n in made.__dict__ if "_hooks" in n and isinstance(made.__dict__[n], dict)]:
        made.__dict__[name] = type(made.__dict__[name])()
    made._buffers, made._modules = dict(module._buffers), dict(module._modules)
    # Tuners that start from the weights put others in their place: the storage is the backbone's, the parameter is not.
    made._parameters = {
        name: p if p is None else nn.Parameter(p.detach(), requires_grad=False)
        for name, p in module._parameters.items()
    }
    return made


def _built(
    setting: Setting, root: nn.Module, targets: Collection[str], inputs: Collection[str], seed: int
) -> nn.Module:
    base = tuner_class(setting.type)

    class Seeded(base):  # type: ignore[misc, valid-type]
        """Draws each layer's weights by the seed and its name."""

        def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
            _seed(seed, setting.tuner, kwargs.get("current_key", ""))
            super()._create_and_replace(*args, **kwargs)

    with torch.random.fork_rng(devices=_devices(root)), _quiet():
        _seed(seed, setting.tuner, "")
        tuner: Any = Seeded(root, setting.config(targets, inputs), ADAPTER)
        tuner._cast_adapter_dtype(adapter_name=ADAPTER, autocast_adapter_dtype=True)
        # It has been drawn; a class that stands in a function cannot be pickled.
        tuner.__class__ = base
    return cast(nn.Module, tuner.eval())


def _seed(*parts: Any) -> None:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7]))


def _devices(root: nn.Module) -> Sequence[int]:
    return sorted({p.device.index or 0 for p in root.parameters() if p.device.type == "cuda"})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # PEFT warns of what is meant here, such as a model without a configuration.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)


def _bases(layers: Collection[Any]) -> Iterator[nn.Parameter]:
    for layer in layers:
        if hasattr(layer, "get_base_layer"):
            yield from layer.get_base_layer().parameters()
