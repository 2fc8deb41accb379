"""Prompts and prefixes as stock PEFT's own, where they compute the same there.

PEFT puts a prompt before the text of any model, and a prefix into the cache as if it were text: the text's positions
move on by its length. With rotary positions keys that are turned by that length give the same attention; with learned
positions nothing does. So each is tried on the model before it is written (`computes_the_same`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from autopeft.anatomy import shape_of
from autopeft.attaching import Attachment
from autopeft.hybrid import Hybrid

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

    Weights = Mapping[str, torch.Tensor]

#: By how much logits may differ, relative to the largest: sums in another order.
_CLOSE = 1e-4


def prompt_config(hybrid: Hybrid, model: PreTrainedModel, common: Mapping[str, Any]) -> PeftConfig | None:
    """Of a language model: classifiers look for the text's last token, which PEFT does not tell them of."""
    from peft import PromptTuningConfig

    shape = shape_of(model)
    if common["task_type"] != "CAUSAL_LM" or shape.stacks or len(hybrid.model) != 1:
        return None
    (prompt,) = hybrid.model
    if set(prompt.weights(shape, "input")) != {"prompt"}:
        return None
    width = shape.width("input")[0]
    return PromptTuningConfig(token_dim=width, **_sizes(prompt.size_value, shape.layers, 1), **_kept(common))


def prompt_state(hybrid: Hybrid, weights: Weights, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The vectors [l, d]."""
    (prompt,) = hybrid.model
    return {"prompt_embeddings": weights[f"model.input.{prompt.bank_name}.prompt"]}


def prefix_config(hybrid: Hybrid, model: PreTrainedModel, common: Mapping[str, Any]) -> PeftConfig | None:
    """Of prefixes of one length in all layers, on a language model with rotary positions and no sliding window."""
    from peft import PrefixTuningConfig

    shape, lengths = shape_of(model), {m.size_value for _, _, m in hybrid.placed()}
    everywhere = all(len(methods) == 1 for methods in hybrid.layers) and len(lengths) == 1
    windowed = getattr(model.config, "sliding_window", None) and getattr(model.config, "use_sliding_window", True)
    writes = common["task_type"] == "CAUSAL_LM"
    if not writes or shape.stacks or windowed or not everywhere or _rotary(model) is None:
        return None
    (length,) = lengths
    sizes = _sizes(length, shape.layers, shape.kv_heads)
    return PrefixTuningConfig(token_dim=shape.kv_heads * shape.head_dim, **sizes, **_kept(common))


def prefix_state(hybrid: Hybrid, weights: Weights, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Keys, turned by the prefix's length, and values of all layers, [l, 2 x layers x width]."""
    columns = []
    for i, place, method in hybrid.placed():
        key, value = (weights[f"layers.{i}.{place}.{method.bank_name}.{name}"] for name in ("key", "value"))
        columns += [_turned(key, model).flatten(1), value.flatten(1)]
    return {"prompt_embeddings": torch.cat(columns, dim=1)}


def stored_weights(hybrid: Hybrid, stored: Weights, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a hybrid whose `prompt_state` or `prefix_state` a file holds."""
    vectors, own = stored["prompt_embeddings"], dict[str, torch.Tensor]()
    placed = list(hybrid.placed())
    if not placed:
        own[f"hybrid.model.input.{hybrid.model[0].bank_name}.prompt"] = vectors
    shape = shape_of(model)
    for n, (i, place, method) in enumerate(placed):
        key, value = vectors.view(len(vectors), len(placed), 2, shape.kv_heads, shape.head_dim)[:, n].unbind(1)
        prefix = f"hybrid.layers.{i}.{place}.{method.bank_name}"
        own |= {f"{prefix}.key": _turned(key, model, back=True), f"{prefix}.value": value}
    return own


def _sizes(length: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "num_virtual_tokens": length,
        "num_layers": layers,
        "num_attention_heads": heads,
        "num_transformer_submodules": 1,
    }


def _kept(common: Mapping[str, Any]) -> dict[str, Any]:
    """What prompts are told of what tuners of maps are."""
    return {name: common[name] for name in ("task_type", "inference_mode")}


def _rotary(model: Any) -> Any:
    """The module that gives cosines and sines of positions, where a model has one for all layers."""
    found = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "rotary_emb"]
    return found[0] if len(found) == 1 and _turning(model) is not None else None


def _turning(model: Any) -> Any:
    """The function of the model's code that turns queries and keys."""
    return getattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb", None)


def _turned(key: torch.Tensor, model: PreTrainedModel, back: bool = False) -> torch.Tensor:
    """Keys [l, heads, head width], each turned as at position l, or back from there."""
    positions = torch.tensor([[len(key)]], device=key.device)
    cosine, sine = _rotary(model)(key[None], positions)
    sine = -sine if back else sine
    turns = key[None, ..., : cosine.shape[-1]].transpose(1, 2)
    turned = _turning(model)(turns, turns, cosine, sine)[1].transpose(1, 2)[0]
    return torch.cat([turned, key[..., cosine.shape[-1] :]], dim=-1).to(key.dtype)


def reads_prompts(config: PeftConfig) -> bool:
    """Whether PEFT learns vectors that it puts to texts."""
    return bool(config.is_prompt_learning)


@torch.no_grad()
def computes_the_same(config: PeftConfig, state: Weights, hybrid: Hybrid, weights: Weights, model: Any) -> bool:
    """Whether PEFT's own gives the hybrid's logits, on two short texts of which one is padded.

    A language model is as it was afterwards: PEFT puts nothing on it.
    """
    from peft.utils import set_peft_model_state_dict

    from autopeft.peft_tuner import peft_model

    words = model.get_input_embeddings().num_embeddings
    ids = torch.arange(12).view(2, 6) * max(1, words // 13) % words
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    with Attachment(model, hybrid) as attached:
        attached.banks.load(weights)
        expected = model(**inputs).logits
    try:
        wrapped = peft_model(model, config)
        set_peft_model_state_dict(wrapped, dict(state))
        found = wrapped.eval()(**inputs).logits[:, -expected.shape[1] :]
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        # What PEFT cannot put on this model is not stock there.
        return False
    found, expected = found[mask.bool()], expected[mask.bool()]
    return found.shape == expected.shape and bool((found - expected).abs().max() <= _CLOSE * expected.abs().max())
