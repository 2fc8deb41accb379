"""A hybrid of LoRA, or of DoRA, as stock PEFT LoRA, with each module's own rank or with one rank for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from autopeft.adapter_keys import WRAPPED
from autopeft.anatomy import ModelShape, Rows, family_of, layers_of, shape_of
from autopeft.hybrid import Hybrid
from autopeft.methods._place import BatchInput, Place
from autopeft.readouts import Readout
from autopeft.weight_names import HEAD, part

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

_Part = tuple[Rows, float, torch.Tensor, torch.Tensor]
#: What stock PEFT LoRA can be: each alone, as the magnitudes are on or off for all of a model.
_KINDS: tuple[set[str], ...] = ({"lora"}, {"dora"})


def is_lora_only(hybrid: Hybrid) -> bool:
    """Whether stock PEFT LoRA can express it: LoRA alone, or DoRA alone, without gates, in at least one layer."""
    methods = list(hybrid.methods())
    return {m.name for m in methods} in _KINDS and all(m.mergeable for m in methods)


def lora_config(hybrid: Hybrid, model: PreTrainedModel, readout: Readout, padded: bool) -> LoraConfig:
    """The configuration of a LoRA-only hybrid on `model`; scales are in B, so alpha = r everywhere.

    `padded`: one rank for all modules, the largest, and so no patterns.
    """
    from peft import LoraConfig, TaskType

    ranks = _ranks(hybrid, model)
    largest = max(ranks.values())
    return LoraConfig(
        task_type=TaskType(readout.peft_task) if readout.peft_task else None,
        inference_mode=True,
        r=largest,
        lora_alpha=largest,
        rank_pattern={} if padded else ranks,
        alpha_pattern={} if padded else dict(ranks),
        target_modules=sorted(ranks),
        modules_to_save=readout.heads(model),
        fan_in_fan_out=has_transposed(model),
        lora_dropout=0.0,
        use_dora=is_dora(hybrid),
    )


def lora_state(
    hybrid: Hybrid, weights: Mapping[str, torch.Tensor], model: PreTrainedModel, padded: bool
) -> dict[str, torch.Tensor]:
    """The weights under stock PEFT's names, equal to the hybrid on `model`.

    Sites that share a fused map (q, k, v of GPT-2) become one LoRA whose rank is the sum of theirs: B is then zero
    outside each site's own rows. `padded` adds zero rows to A and zero columns to B up to the largest rank.
    """
    rank = max(_ranks(hybrid, model).values()) if padded else 0
    state = {}
    for name, parts in _modules(hybrid, weights, model).items():
        a, b = _joined(parts)
        more = max(0, rank - a.shape[0])
        state[f"{WRAPPED}{name}.lora_A.weight"] = pad(a, (0, 0, 0, more)).contiguous()
        state[f"{WRAPPED}{name}.lora_B.weight"] = pad(b, (0, more)).contiguous()
    if is_dora(hybrid):
        for name, magnitude in _magnitudes(hybrid, weights, model).items():
            state[f"{WRAPPED}{name}.lora_magnitude_vector"] = magnitude.contiguous()
    return state | {name: weight.contiguous() for name, weight in head_state(weights).items()}


def head_state(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The head's weights under PEFT's names."""
    return {f"{WRAPPED}{name}": weight for name, weight in part(weights, HEAD).items()}


def _ranks(hybrid: Hybrid, model: PreTrainedModel) -> dict[str, int]:
    """The rank of each adapted module, by its dotted name."""
    shape, ranks = shape_of(model), dict[str, int]()
    for i, site, method in hybrid.placed(shape):
        name = module_name(model, i, site, shape)
        ranks[name] = ranks.get(name, 0) + method.size_value
    return ranks


def _modules(hybrid: Hybrid, weights: Mapping[str, torch.Tensor], model: PreTrainedModel) -> dict[str, list[_Part]]:
    """Rows, scale, A and B of each LoRA in a module, by the module's dotted name."""
    shape = shape_of(model)
    modules: dict[str, list[_Part]] = {}
    for i, site, method in hybrid.placed(shape):
        a, b = (weights[f"hybrid.layers.{i}.{site}.{method.bank_name}.{w}"] for w in ("A", "B"))
        part = (shape.at(i).rows(site), method.output_scale(), a, b)
        modules.setdefault(module_name(model, i, site, shape), []).append(part)
    return modules


def is_dora(hybrid: Hybrid) -> bool:
    """Whether its LoRA, which it is alone, has magnitudes."""
    return any(m.name == "dora" for methods in hybrid.layers for m in methods)


def _magnitudes(hybrid: Hybrid, weights: Mapping[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """DoRA's magnitudes [out of the whole map] by module: the norms of the frozen rows, and the trained distances."""
    shape, found = shape_of(model), dict[str, torch.Tensor]()
    for i, site, method in hybrid.placed(shape):
        name = module_name(model, i, site, shape)
        if name not in found:
            whole = Place(model.get_submodule(name), BatchInput())
            found[name] = torch.linalg.norm(whole.weight(), dim=1)
        found[name] += shape.at(i).rows(site).spread(weights[f"hybrid.layers.{i}.{site}.{method.bank_name}.magnitude"])
    return found


def has_transposed(model: PreTrainedModel) -> bool:
    """Whether its maps are transformers' Conv1D, whose weights are [in, out]."""
    return hasattr(layers_of(model)[0].get_submodule(family_of(model.config).site("q").module), "nf")


def module_name(model: PreTrainedModel, layer: int, place: str, shape: ModelShape) -> str:
    """The dotted name, in a model, of the module of a layer's place."""
    prefix = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    return f"{prefix}{shape.inside(layer)}.{shape.at(layer).row.site(place).module}"


def _joined(parts: list[_Part]) -> tuple[torch.Tensor, torch.Tensor]:
    """A [sum r, in] and B [out of the whole map, sum r] of the LoRAs at the slices of one map."""
    a = torch.cat([a for _, _, a, _ in parts])
    columns = [rows.spread(b * scale) for rows, scale, _, b in parts]
    return a.contiguous(), torch.cat(columns, dim=1).contiguous()
