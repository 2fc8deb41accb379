"""What a model that was loaded must be, before anything is trained on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autopeft.anatomy import FAMILIES, family_of, input_limits, layer_counts, layers_of, noise_images
from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.readouts import READOUTS, Readout

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def check_stacks(config: PretrainedConfig, readout: Readout, name: str) -> PretrainedConfig:
    """The configuration; `AutopeftError` where one of model and readout has an encoder and a decoder alone."""
    both = family_of(config).decoder is not None
    if both and not readout.encodes:
        known = " or ".join(kind for kind, one in READOUTS.all().items() if one.encodes)
        raise AutopeftError(
            f"model '{name}': has an encoder and a decoder, which are not for {readout.called}; set readout: {known} "
            "in the task, or take another model"
        )
    if readout.encodes and not both:
        known = ", ".join(kind for kind, row in FAMILIES.items() if row.decoder is not None)
        raise AutopeftError(
            f"model '{name}': has no encoder and decoder, which readout '{readout.name}' is for; take one of {known}"
        )
    return config


def check_fit(model: PreTrainedModel, info: Mapping[str, Any], name: str, trained: Sequence[str]) -> None:
    """All weights outside the head must be the checkpoint's: what is drawn anew at every load fits no adapter."""
    place, heads = f"model '{name}'", tuple(f"{head}." for head in trained)
    for weight, saved, described in sorted(info["mismatched_keys"]):
        if not weight.startswith(heads):
            raise AutopeftError(
                f"{place}: {weight} is {list(saved)} in the checkpoint, and {list(described)} by its config.json; "
                "use the files that belong together"
            )
    if above := sorted(weight for weight in info["unexpected_keys"] if _is_above(weight, model)):
        layers = len(layers_of(model))
        raise AutopeftError(
            f"{place}: the checkpoint has more than the {layers} layers that its config.json says ({above[0]}); mend "
            "num_hidden_layers, or save the model without them"
        )
    names = sorted({weight.rpartition(".")[0] for weight in info["missing_keys"] if not weight.startswith(heads)})
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise AutopeftError(
            f"{place}: the checkpoint lacks weights of {', '.join(names[:3])}{more}; use a checkpoint that has them"
        )


def check_computes(model: PreTrainedModel, name: str) -> None:
    """A forward pass of three tokens, or an image: what configuration or weights spoil shows here, not in training."""
    import torch

    place = f"model '{name}'"
    inputs = _example(model)
    with torch.no_grad(), door(place, "cannot compute with its config.json"):
        finite = bool(model(**inputs).logits.isfinite().all())
    if not finite:
        raise AutopeftError(f"{place}: computes no numbers (NaN or infinite), so its weights are broken; get it anew")


def _example(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    import torch

    if family_of(model.config).images:
        return {"pixel_values": noise_images(model, 1)}
    limits = input_limits(model.config)
    ids = torch.arange(3, device=model.device)[None, : limits.tokens] % limits.vocabulary
    more = {"decoder_input_ids": ids} if family_of(model.config).decoder else {}
    return {"input_ids": ids, **more}


def _is_above(weight: str, model: PreTrainedModel) -> bool:
    """Whether a weight of a checkpoint is named after a layer above those that there are."""
    for row, count in zip(family_of(model.config).stacks, layer_counts(model), strict=True):
        found = re.match(rf"(?:{model.base_model_prefix}\.)?{re.escape(row.layers)}\.(\d+)\.", weight)
        if found:
            return int(found[1]) >= count
    return False
