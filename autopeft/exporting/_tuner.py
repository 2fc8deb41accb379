"""A hybrid of one tuner of PEFT, in that tuner's own files, which load without autopeft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from autopeft.adapter_keys import WRAPPED
from autopeft.anatomy import shape_of
from autopeft.attaching import Attachment
from autopeft.exporting._lora import head_state, module_name
from autopeft.hybrid import Hybrid
from autopeft.methods.peft import PeftBlock
from autopeft.peft_tuners.setting import field_names
from autopeft.readouts import Readout
from autopeft.weight_names import HYBRID, part

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


def is_one_tuner(hybrid: Hybrid) -> bool:
    """Whether all of it is one tuner of PEFT with equal options, and sizes that its configuration can tell apart."""
    methods = list(hybrid.methods())
    if not methods or not all(isinstance(m, PeftBlock) for m in methods):
        return False
    blocks = cast(list[PeftBlock], methods)
    kinds = {(m.tuner, m.size_field, m.options) for m in blocks}
    return len(kinds) == 1 and (len({m.amount for m in blocks}) == 1 or _pattern(blocks[0]) is not None)


def tuner_config(hybrid: Hybrid, model: PreTrainedModel, readout: Readout) -> PeftConfig | None:
    """The tuner's configuration on `model`; None where there is none that puts the same on it."""
    if not is_one_tuner(hybrid):
        return None
    shape = shape_of(model)
    family, placed = shape.row, [(i, s, cast(PeftBlock, m)) for i, s, m in hybrid.placed(shape)]
    if shape.stacks or any(family.site(site).parts > 1 for _, site, _ in placed):
        return None
    modules = {(i, site): module_name(model, i, site, shape) for i, site, _ in placed}
    sizes = {modules[i, site]: m.amount for i, site, m in placed}
    largest = max((m for _, _, m in placed), key=lambda m: m.amount)
    heads = readout.heads(model)
    more: dict[str, Any] = {"task_type": readout.peft_task, "inference_mode": True, "modules_to_save": heads}
    if len(set(sizes.values())) > 1:
        more[_pattern(largest) or ""] = sizes
    layers, sites = sorted({i for i, _, _ in placed}), sorted({site for _, site, _ in placed})
    if len(placed) == len(layers) * len(sites) and "layers_to_transform" in field_names(largest.setting.type):
        # Tuners that share weights between layers tell them by these endings.
        more["layers_to_transform"] = layers
        targets = [family.site(site).module for site in sites]
    elif len(layers) > 1 and largest.verdict.shares:
        return None
    else:
        targets = list(modules.values())
    inputs = [name for (_, site), name in modules.items() if site == "down"]
    return largest.setting.config(targets, inputs, **more)


def tuner_state(hybrid: Hybrid, weights: Mapping[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights under PEFT's names."""
    state = head_state(weights)
    prefix = module_name(model, 0, "layer", shape_of(model)).removesuffix("0.")
    with Attachment(model, hybrid) as attached:
        attached.banks.load(part(weights, HYBRID))
        for name, tensor in PeftBlock.stored(attached.banks.named_banks()).items():
            state[name.replace(f"{WRAPPED}layers.", f"{WRAPPED}{prefix}", 1)] = tensor
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _pattern(method: PeftBlock) -> str | None:
    """The field that gives single modules sizes of their own."""
    name = "rank_pattern" if method.size_field == "r" else f"{method.size_field}_pattern"
    return name if name in field_names(method.setting.type) and not method.verdict.shares else None
