"""What a model that was loaded must be, before anything is trained on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autopeft.anatomy import family_of, input_limits, layer_counts, layers_of
from autopeft.doors import door
from autopeft.errors import AutopeftError

if TYPE_CHECKING:
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
    """A forward pass of three tokens: what configuration or weights spoil shows here, and not in training."""
    import torch

    place, limits = f"model '{name}'", input_limits(model.config)
    ids = torch.arange(3, device=model.device)[None, : limits.tokens] % limits.vocabulary
    with torch.no_grad(), door(place, "cannot compute with its config.json"):
        more = {"decoder_input_ids": ids} if family_of(model.config).decoder else {}
        finite = bool(model(input_ids=ids, **more).logits.isfinite().all())
    if not finite:
        raise AutopeftError(f"{place}: computes no numbers (NaN or infinite), so its weights are broken; get it anew")


def _is_above(weight: str, model: PreTrainedModel) -> bool:
    """Whether a weight of a checkpoint is named after a layer above those that there are."""
    for row, count in zip(family_of(model.config).stacks, layer_counts(model), strict=True):
        found = re.match(rf"(?:{model.base_model_prefix}\.)?{re.escape(row.layers)}\.(\d+)\.", weight)
        if found:
            return int(found[1]) >= count
    return False
