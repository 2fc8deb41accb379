"""Hybrids that a configuration of stock PEFT other than LoRA's for maps holds.

(IA)3, VeRA, prompts and prefixes alone; and LoRA's configuration without any map, which holds a trained head, and
changed biases (`bias: all`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.functional import pad

from autopeft.adapter_keys import WRAPPED
from autopeft.anatomy import head_names, shape_of
from autopeft.exporting._lora import has_transposed, head_state, module_name
from autopeft.exporting._prompts import prefix_config, prefix_state, prompt_config, prompt_state
from autopeft.hybrid import Hybrid
from autopeft.readouts import Readout
from autopeft.weight_names import HYBRID, part

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

    Weights = Mapping[str, torch.Tensor]


def is_stock(hybrid: Hybrid) -> bool:
    """Whether all of it is one method that such a tuner may hold; its places on a model decide (`stock_config`)."""
    return _kind(hybrid) is not None


def stock_config(hybrid: Hybrid, model: PreTrainedModel, readout: Readout) -> PeftConfig | None:
    """The tuner's configuration on `model`; None where there is none that computes the same."""
    kind = _kind(hybrid)
    return None if kind is None else kind.config(hybrid, model, _common(model, readout))


def stock_state(hybrid: Hybrid, weights: Weights, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights under PEFT's names."""
    kind = _kind(hybrid)
    assert kind is not None, "asked of what is stock"
    state = head_state(weights) | kind.state(hybrid, part(weights, HYBRID), model)
    return {name: w.contiguous() for name, w in state.items()}


@dataclass(frozen=True)
class _Kind:
    config: Callable[[Hybrid, Any, dict[str, Any]], PeftConfig | None]
    state: Callable[[Hybrid, Weights, Any], dict[str, torch.Tensor]]


def _kind(hybrid: Hybrid) -> _Kind | None:
    if hybrid.is_empty:
        return _HEAD
    if all(m.biases for m in hybrid.methods()):
        return _BIASES
    names = {(m.name, m.peft_type) for m in hybrid.methods()}
    return _KINDS.get(next(iter(names))[1] or "") if len(names) == 1 else None


def _common(model: PreTrainedModel, readout: Readout) -> dict[str, Any]:
    return {
        "task_type": readout.peft_task,
        "inference_mode": True,
        "modules_to_save": readout.heads(model),
        "fan_in_fan_out": has_transposed(model),
    }


def _targets(hybrid: Hybrid, model: PreTrainedModel, ending: str = "") -> list[str]:
    """Dotted names of the adapted modules, of places with this ending."""
    shape = shape_of(model)
    return sorted({module_name(model, i, p, shape) for i, p, _ in hybrid.placed(shape) if p.endswith(ending)})


# --- (IA)3: PEFT multiplies with l, whole maps at once ---------------------------------------------------------------


def _ia3_config(hybrid: Hybrid, model: PreTrainedModel, common: dict[str, Any]) -> PeftConfig:
    from peft import IA3Config

    inputs = _targets(hybrid, model, "_in")
    return IA3Config(target_modules=_targets(hybrid, model), feedforward_modules=inputs, **common)


def _ia3_state(hybrid: Hybrid, weights: Weights, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    shape, state = shape_of(model), dict[str, torch.Tensor]()
    for i, place, method in hybrid.placed(shape):
        name = f"{WRAPPED}{module_name(model, i, place, shape)}.ia3_l"
        change = shape.at(i).rows(place).spread(weights[f"layers.{i}.{place}.{method.bank_name}.scale_change"])
        if name not in state:
            state[name] = torch.ones((1, len(change)) if place.endswith("_in") else (len(change), 1))
        state[name].view(-1).add_(change)
    return state


# --- VeRA: one rank for all maps, whose unused entries are zero -------------------------------------------------------


def _vera_config(hybrid: Hybrid, model: PreTrainedModel, common: dict[str, Any]) -> PeftConfig | None:
    from peft import VeraConfig

    shape = shape_of(model)
    if any(shape.at(i).row.site(place).parts > 1 for i, place, _ in hybrid.placed(shape)):
        # Slices of a map begin with the first rows of B each; PEFT's go on where the one before ended.
        return None
    rank = max(m.size_value for _, _, m in hybrid.placed())
    return VeraConfig(r=rank, target_modules=_targets(hybrid, model), save_projection=True, **common)


def _vera_state(hybrid: Hybrid, weights: Weights, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    rank = max(m.size_value for _, _, m in hybrid.placed())
    shape, widest, state = shape_of(model), [0, 0], dict[str, torch.Tensor]()
    for i, place, method in hybrid.placed(shape):
        name = module_name(model, i, place, shape)
        module: Any = model.get_submodule(name)
        wide = module.weight.shape[::-1] if hasattr(module, "nf") else module.weight.shape
        widest = [max(pair) for pair in zip(widest, wide, strict=True)]
        d, b = (weights[f"layers.{i}.{place}.{method.bank_name}.{w}"] for w in ("d", "b"))
        state[f"{WRAPPED}{name}.vera_lambda_d"] = pad(d, (0, rank - len(d)))
        state[f"{WRAPPED}{name}.vera_lambda_b"] = b * method.output_scale()
        shared = method.bank_name
    state["base_model.vera_A"] = weights[f"shared.{shared}.A"][:rank, : widest[1]]
    state["base_model.vera_B"] = weights[f"shared.{shared}.B"][: widest[0], :rank]
    return state


# --- no map: a head alone, and biases ---------------------------------------------------------------------------------


def _no_map(common: dict[str, Any], bias: str) -> PeftConfig:
    """LoRA's configuration for no module at all, which PEFT takes under this name."""
    from peft import LoraConfig
    from peft.utils.constants import DUMMY_TARGET_MODULES

    return LoraConfig(target_modules=DUMMY_TARGET_MODULES, r=1, lora_alpha=1, bias=cast(Any, bias), **common)


def _head_config(hybrid: Hybrid, model: PreTrainedModel, common: dict[str, Any]) -> PeftConfig | None:
    # Of a language model nothing is trained then.
    return _no_map(common, "none") if common["modules_to_save"] else None


def _no_state(hybrid: Hybrid, weights: Weights, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {}


def _bias_config(hybrid: Hybrid, model: PreTrainedModel, common: dict[str, Any]) -> PeftConfig | None:
    names = _targets(hybrid, model)
    there = all(getattr(model.get_submodule(name), "bias", None) is not None for name in names)
    return _no_map(common, "all") if there else None


def _bias_state(hybrid: Hybrid, weights: Weights, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """All that PEFT takes for a bias, outside of the heads: it stores the whole biases."""
    shape, heads = shape_of(model), tuple(f"{name}." for name in head_names(model))
    found = {n: t.clone() for n, t in model.state_dict().items() if "bias" in n and not n.startswith(heads)}
    for i, place, method in hybrid.placed(shape):
        name = f"{module_name(model, i, place, shape)}.bias"
        change = weights[f"layers.{i}.{place}.{method.bank_name}.bias"]
        found[name] += shape.at(i).rows(place).spread(change)
    return {f"{WRAPPED}{name}": tensor for name, tensor in found.items()}


_HEAD, _BIASES = _Kind(_head_config, _no_state), _Kind(_bias_config, _bias_state)
_KINDS: Mapping[str, _Kind] = {
    "IA3": _Kind(_ia3_config, _ia3_state),
    "VERA": _Kind(_vera_config, _vera_state),
    "PROMPT_TUNING": _Kind(prompt_config, prompt_state),
    "PREFIX_TUNING": _Kind(prefix_config, prefix_state),
}
