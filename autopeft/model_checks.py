"""What a model that was loaded must be, before anything is trained on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autopeft.anatomy import family_of, input_limits, layers_of, noise_images
from autopeft.doors import door
from autopeft.errors import AutopeftError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def check_fit(model: PreTrainedModel, info: Mapping[str, Any], name: str, trained: Sequence[str]) -> None:
    """All weights outside the head must be the checkpoint's: what is drawn anew at every load fits no adapter."""
    place, heads = f"model '{name}'", tuple(f"{head}." for head in trained)
    for weight, saved, described in sorted(info["mismatched_keys"]):
        if not weight.startswith(heads):
            raise AutopeftError(
                f"{place}: {weight} is {list(saved)} in the checkpoint, and {list(described)} by its config.json; "
                "use the files that belong together"
            )
    layers = len(layers_of(model))
    if above := sorted(weight for weight in info["unexpected_keys"] if _layer_of(weight, model) >= layers):
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
    return {"input_ids": torch.arange(3, device=model.device)[None, : limits.tokens] % limits.vocabulary}


def _layer_of(weight: str, model: PreTrainedModel) -> int:
    """The layer that a weight of a checkpoint is named after; -1 for what is in no layer."""
    found = re.match(rf"(?:{model.base_model_prefix}\.)?{re.escape(family_of(model.config).layers)}\.(\d+)\.", weight)
    return int(found[1]) if found else -1
