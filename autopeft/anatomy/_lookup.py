"""Which row of names a model has, also where its family is not in the table."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autopeft.anatomy import _families
from autopeft.anatomy._family import Family
from autopeft.checkpoint import MOST, check_sizes
from autopeft.doors import door
from autopeft.errors import AutopeftError, suggest

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

#: Transformers' classes of models, in the order in which one is taken where no task says it.
AUTO_CLASS = "AutoModelForSequenceClassification"
_AUTO_CLASSES = (AUTO_CLASS, "AutoModelForCausalLM", "AutoModel")
_SEQ2SEQ = "AutoModelForSeq2SeqLM"
#: Rows that were found for families that the table does not have, by `model_type`.
_FOUND: dict[str, Family] = {}


def family_of(config: PretrainedConfig) -> Family:
    """The row for a configuration.

    A family that is not in the table has another one's row, where all its names fit and nothing is left over.
    `AutopeftError` names a family that has none, and the known ones.
    """
    kind = str(getattr(config, "model_type", ""))
    if (row := _families.FAMILIES.get(kind)) is None:
        if kind not in _FOUND and (found := _recognised(config)) is not None:
            _FOUND[kind] = found
        if (row := _FOUND.get(kind)) is None:
            raise AutopeftError(unsupported(kind))
    return row.of(config)


def unsupported(kind: str) -> str:
    """What to say of a family without a row."""
    return f"model family '{kind:.100}' is not supported; {suggest(kind, _families.FAMILIES)}"


def is_recognised(kind: str) -> bool:
    """Whether a family is not in the table, and has another one's row."""
    return kind in _FOUND and kind not in _families.FAMILIES


def class_for(config: PretrainedConfig) -> str:
    """The first of transformers' auto classes that has a model of this configuration."""
    import transformers

    names = (_SEQ2SEQ, *_AUTO_CLASSES) if getattr(config, "is_encoder_decoder", False) else _AUTO_CLASSES
    there = (name for name in names if type(config) in getattr(transformers, name)._model_mapping)
    return next(there, AUTO_CLASS)


def build(config: PretrainedConfig, trust_remote_code: bool, auto_class: str) -> PreTrainedModel:
    """The model that a configuration describes, of one of transformers' auto classes, on the meta device."""
    import torch
    import transformers

    place = f"model family '{config.model_type}'"
    from_config = getattr(transformers, auto_class).from_config
    with torch.device("meta"), door(place, "no model can be built from this configuration", "mend config.json"):
        check_sizes({name: getattr(config, name, None) for name in (*MOST, "pad_token_id")}, f"{place}: configuration")
        model: PreTrainedModel = from_config(config, trust_remote_code=trust_remote_code)
    return model


def _recognised(config: PretrainedConfig) -> Family | None:
    """A known row whose names are all of those that the layers of an unknown family have."""
    import transformers

    known, kind = transformers.CONFIG_MAPPING, config.model_type
    if kind not in known or known[kind] is not type(config):
        # With code of its own, or renamed.
        return None
    model = build(config, False, class_for(config))
    for row in dict.fromkeys(_families.FAMILIES.values()):
        if not row.images and row.decoder is None and _fits(row, model):
            return _adjusted(row, model)
    return None


def _fits(row: Family, model: Any) -> bool:
    """Whether every layer has the maps and norms of a row, and no other."""
    base = model.base_model
    norms = {getattr(row, name) for name in row.norms}
    try:
        base.get_submodule(row.embeddings)
        layers = list(base.get_submodule(row.layers).children())
        attentions = [layer.get_submodule(row.attention) for layer in layers]
    except AttributeError:
        return False
    causal = {bool(getattr(attention, "is_causal", row.causal)) for attention in attentions}
    return (
        bool(layers)
        and causal == {row.causal}
        and all(
            set(_with_weights(layer, 2)) == set(row.maps) and _outside(_with_weights(layer, 1), row.attention) == norms
            for layer in layers
        )
    )


def _with_weights(layer: Any, dims: int) -> Iterator[str]:
    return (n for n, m in layer.named_modules() if getattr(getattr(m, "weight", None), "ndim", 0) == dims)


def _outside(names: Iterator[str], attention: str) -> set[str]:
    """Norms of queries and keys are a part of attention."""
    return {name for name in names if not name.startswith(f"{attention}.q") and not name.startswith(f"{attention}.k")}


def _adjusted(row: Family, model: Any) -> Family:
    """The row without what only its own family is known for, and with what modules show."""
    base = model.base_model
    layer = next(base.get_submodule(row.layers).children())
    attends = inspect.getsource(type(layer.get_submodule(row.attention)).forward)
    positions = next((m for n, m in base.named_modules() if n.endswith("position_embeddings")), None)
    bias = any(getattr(layer.get_submodule(getattr(row, name)), "bias", None) is not None for name in row.norms)
    heads = [n for n, m in model.named_children() if m is not base and any(True for _ in m.parameters())]
    return replace(
        row,
        residual=None,
        segments=False,
        counts_padding=getattr(positions, "padding_idx", None) is not None,
        norm_bias=bias,
        prefix="ALL_ATTENTION_FUNCTIONS" in attends,
        heads=tuple(dict.fromkeys([*row.heads, *(name for name in heads if name != "lm_head")])),
    )
