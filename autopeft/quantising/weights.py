"""What a linear map computes with, however it is kept; and putting maps into other forms."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from autopeft.quantising import kind_of
from autopeft.quantising._uniform import UniformLinear


def is_map(module: nn.Module) -> bool:
    """Whether it is a linear map, or transformers' Conv1D (GPT-2), whose weight is [in, out]."""
    return isinstance(module, nn.Linear) or hasattr(module, "nf")


@torch.no_grad()
def dequantised(module: nn.Module) -> torch.Tensor:
    """The weight [m, n] that a linear map computes with, fp32: a new tensor where it is quantised or transposed.

    Right for maps that bitsandbytes has repacked for its kernels too, where `dequantize_4bit` gives other numbers.
    """
    kind, weight = kind_of(module), getattr(module, "weight")  # noqa: B009
    if isinstance(module, UniformLinear):
        return module.dequantised()
    if kind == "int8":
        held: Any = module
        scales = weight.SCB if weight.SCB is not None else held.state.SCB
        return weight.data.float() * (scales.float() / 127.0)[:, None]
    if kind is None:
        # transformers' Conv1D (GPT-2) has [in, out].
        return (weight.T if hasattr(module, "nf") else weight).detach().float()
    from bitsandbytes.functional import dequantize_4bit

    data, state = _as_loaded(weight.data, weight.quant_state)
    state.dtype = torch.float32
    found: torch.Tensor = dequantize_4bit(data, state)
    return found.float()


def _as_loaded(data: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    """Copies of 4-bit weights and their state in bitsandbytes' own order."""
    state = copy.copy(state)
    if getattr(state, "packing_format_for_cpu", False):
        from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

        scales = state.absmax.T.reshape(-1).float()
        state.original_nested = False
        data, state = _convert_weight_packed_for_cpu_inverse(data, state)
        state.absmax, state.nested = scales, False
    return data, state


def memory(module: nn.Module) -> int:
    """Bytes of a module's weights with the scales that belong to them; tied ones count once."""
    found = {id(tensor): tensor for part in module.modules() for tensor in _tensors(part)}
    return sum(tensor.numel() * tensor.element_size() for tensor in found.values())


def _tensors(module: nn.Module) -> Iterable[torch.Tensor]:
    """All that one module itself holds for computing with its weights."""
    yield from module.parameters(recurse=False)
    if isinstance(module, UniformLinear):
        yield from (module.scales, module.zeros)
    weight, state = getattr(module, "weight", None), getattr(module, "state", None)
    if getattr(weight, "quant_state", None) is not None:
        yield weight.quant_state.absmax  # type: ignore[union-attr]
    if kind_of(module) == "int8":
        scales = getattr(weight, "SCB", None)
        yield scales if scales is not None else getattr(state, "SCB")  # noqa: B009


def settle(model: nn.Module) -> None:
    """Have bitsandbytes' maps compute in evaluation as they do in training, from weights as they were loaded.

    In evaluation mode it repacks 4-bit weights for a CPU with bf16 instructions, in place and with scales in bf16, and
    rounds the inputs of 8-bit maps too; a repacked weight that is read later gives wrong numbers without an error.
    """
    for module in model.modules():
        if kind_of(module) in ("nf4", "fp4", "int8"):
            module.register_forward_pre_hook(_as_in_training)


def _as_in_training(module: nn.Module, args: Any) -> None:
    module.training = True


def to_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast what is not quantised. The integers are those of the fp32 weights, whatever the precision of training."""
    for module in model.modules():
        if getattr(module, "compute_dtype", None) is not None:
            module.compute_dtype = dtype  # type: ignore[assignment]
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def quantise_uniform(model: nn.Module, skip: Iterable[str]) -> nn.Module:
    """The same model with its linear maps as `UniformLinear`, but for those of these full names."""
    skipped = set(skip)
    for name, module in list(model.named_modules()):
        if name not in skipped and is_map(module):
            made = UniformLinear(dequantised(module), getattr(module, "bias", None))
            model.set_submodule(name, made.train(module.training))
    return model


@torch.no_grad()
def requantise(module: nn.Module, weight: torch.Tensor) -> None:
    """Have a map of 4 bits, which computes as before otherwise, stand for this fp32 weight [m, n]."""
    old: Any = module.weight
    if isinstance(module, UniformLinear):
        made = UniformLinear(weight, None)
        module.weight, module.scales, module.zeros = made.weight, made.scales, made.zeros
    elif kind_of(module) in ("nf4", "fp4"):
        options = {name: getattr(old, name) for name in ("quant_type", "blocksize", "compress_statistics")}
        module.weight = type(old)(weight.contiguous(), False, module=module, **options).to(weight.device)
    else:
        raise ValueError("not a map of 4 bits")


def rebind(model: nn.Module) -> None:
    """After the data of weights were replaced by equal ones: have 8-bit maps let go of the old ones."""
    for module in model.modules():
        if kind_of(module) == "int8":
            state, weight = getattr(module, "state"), getattr(module, "weight")  # noqa: B009
            if state.CB is not None:
                state.CB = weight.data
            if weight.CB is not None:
                weight.CB = weight.data


@torch.no_grad()
def changed(module: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """A map with this fp32 weight [m, n] and bias in the place of `module`, which may be quantised.

    An `int4` map stays one where the change is one number a group: its zero points move, exactly. Others become fp32:
    rounded to 4 bits again, a trained update is lost (its size is that of the rounding).
    """
    made: nn.Linear | UniformLinear | None = None
    if isinstance(module, UniformLinear):
        groups = (weight - module.dequantised()).unflatten(1, (-1, module.group))
        change = groups.mean(-1)
        if torch.allclose(groups, change[..., None].expand_as(groups), rtol=0, atol=5e-7 * float(weight.abs().max())):
            made = copy.deepcopy(module)
            made.shift(change)
    if made is None:
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device)
        made.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    made.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False))
    return made.train(module.training)
