"""Where q, k, v, o, the feed-forward network and the layers of a model family are: names only, no code a family.

Shape letters used everywhere: L layers (or tokens, where said), d hidden width, f width of the feed-forward network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autopeft.anatomy._families import FAMILIES
from autopeft.anatomy._family import CROSS, INPUT, MAPS, PLACES, SITES, SYNONYMS, Family
from autopeft.anatomy._images import noise_images
from autopeft.anatomy._limits import InputLimits, TrainingLoad, input_limits
from autopeft.anatomy._lookup import AUTO_CLASS, build, class_for, family_of, is_recognised, unsupported
from autopeft.anatomy._shape import ModelShape
from autopeft.anatomy._sites import Rows, Site, joined
from autopeft.errors import AutopeftError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = [
    "AUTO_CLASS", "CROSS", "FAMILIES", "INPUT", "MAPS", "PLACES", "SITES", "SYNONYMS", "Family", "InputLimits",
    "ModelShape", "Rows", "Site", "TrainingLoad", "embeddings_of", "family_of", "head_names", "hidden_of",
    "hidden_states", "input_limits", "is_recognised", "joined", "layer_counts", "layers_of", "noise_images",
    "remarks_of", "shape_from_config", "shape_of", "stacks_of", "unsupported", "vocabulary_of", "with_hidden",
    "without_weights",
]  # fmt: skip

#: The places that are modules with a weight, and perhaps a bias.
_WITH_WEIGHTS = (*MAPS, "norm1", "norm2")


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The backbone's layers, lowest first, a decoder's after its encoder's; names are checked against the model."""
    return [layer for row in family_of(model.config).stacks for layer in _layers_of(model, row)]


def layer_counts(model: PreTrainedModel) -> list[int]:
    """How many layers each of its stacks has."""
    return [len(_layers_of(model, row)) for row in family_of(model.config).stacks]


def _layers_of(model: PreTrainedModel, row: Family) -> list[nn.Module]:
    layers = list(_walk(_base(model), row.layers, model).children())
    for name in (row.attention, *row.maps, *(getattr(row, norm) for norm in row.norms)):
        _walk(layers[0], name, model)
    return layers


def stacks_of(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that run its layers, and are given masks: the base model, or encoder and decoder."""
    family, base = family_of(model.config), _base(model)
    if family.decoder is None:
        return [base]
    return [_walk(base, row.layers.rpartition(".")[0], model) for row in family.stacks]


def hidden_states(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The last hidden states [N, L, d] of a model's inputs: those of the decoder, where it has an encoder too.

    `inputs` are what the model takes: then `decoder_input_ids` are among them.
    """
    if family_of(model.config).decoder is None:
        found: torch.Tensor = _base(model)(**inputs, use_cache=False).last_hidden_state
        return found
    # The base model of some is themselves, head and all.
    encoder, decoder = stacks_of(model)
    seen = inputs.get("attention_mask")
    encoded = encoder(input_ids=inputs["input_ids"], attention_mask=seen).last_hidden_state
    written: torch.Tensor = decoder(
        input_ids=inputs["decoder_input_ids"],
        attention_mask=inputs.get("decoder_attention_mask"),
        encoder_hidden_states=encoded,
        encoder_attention_mask=seen,
        use_cache=False,
    ).last_hidden_state
    return written


def hidden_of(output: Any) -> torch.Tensor:
    """A layer's output [N, L, d], which may stand before its attention's weights."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def with_hidden(output: Any, hidden: torch.Tensor) -> Any:
    """The same with another output of the layer."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def remarks_of(shape: ModelShape) -> list[str]:
    """What a user should know of a model whose family is not in the table."""
    if not is_recognised(shape.family):
        return []
    return [
        f"model family '{shape.family}' is not one that autopeft was tested with; its modules have the names of a "
        "known one, and it is tried before training"
    ]


def embeddings_of(model: PreTrainedModel) -> nn.Module:
    """The module that turns token ids into vectors."""
    return _walk(_base(model), family_of(model.config).embeddings, model)


def head_names(model: PreTrainedModel) -> list[str]:
    """Dotted names, in `model`, of the head modules that are there (none on a bare base model)."""
    return [name for name in family_of(model.config).heads if hasattr(model, name)]


def shape_of(model: PreTrainedModel) -> ModelShape:
    """The shape of a model, read from its modules (they may be on the meta device)."""
    stacks = [_stack_shape(model, row) for row in family_of(model.config).stacks]
    if len(stacks) == 1:
        return stacks[0]
    return replace(
        stacks[0],
        layers=sum(stack.layers for stack in stacks),
        # Each stack's own are counted apart from what they share.
        stacks=tuple(stacks),
    )


def _stack_shape(model: PreTrainedModel, family: Family) -> ModelShape:
    config, layers = model.config, _layers_of(model, family)
    query_heads, kv_heads = family.heads_of(config), family.kv_heads_of(config)

    def widths(layer: nn.Module) -> dict[str, tuple[int, int]]:
        return {name: _in_out(layer, family.site(name), query_heads, kv_heads) for name in (*SITES, *family.cross)}

    sites = widths(layers[0])
    if any(widths(layer) != sites for layer in layers):
        raise AutopeftError(f"model family '{config.model_type}': its layers are not all of one shape")
    hidden, head_dim = sites["q"][0], sites["q"][1] // query_heads
    embedding = 0 if family.images else _table(model).shape[1]
    return ModelShape(
        family=str(config.model_type),
        layers=len(layers),
        hidden=hidden,
        ffn=sites["up"][1],
        heads=query_heads,
        kv_heads=sites["k"][1] // head_dim,
        head_dim=head_dim,
        sites=sites,
        backbone_params=_own_params(model),
        gated=family.gate is not None,
        causal=family.causal,
        biased=frozenset(place for place in (*_WITH_WEIGHTS, *family.cross) if _has_bias(layers[0], family, place)),
        embedding=embedding if embedding != hidden else 0,
        names=family,
        words=_words(model),
        own_head=_own_head(model),
    )


def _own_params(model: PreTrainedModel) -> int:
    """Parameters without a head, which the base model of T5 has as well."""
    base = _base(model)
    return sum(map(_numbers, base.parameters())) - (_own_head(model) if base is model else 0)


def _words(model: PreTrainedModel) -> int:
    head: Any = model.get_output_embeddings()
    return 0 if head is None else int(head.weight.shape[0])


def _own_head(model: PreTrainedModel) -> int:
    head: Any = model.get_output_embeddings()
    tied = head is None or bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    return 0 if tied else sum(int(p.numel()) for p in head.parameters())


def vocabulary_of(model: PreTrainedModel) -> torch.Tensor | None:
    """What tokens are looked up in [vocabulary, width]; None on the meta device, and of models of images."""
    if family_of(model.config).images:
        return None
    table = _table(model).detach()
    return None if table.is_meta else table


def _table(model: PreTrainedModel) -> torch.Tensor:
    module: Any = model.get_input_embeddings()
    table: torch.Tensor = module.weight
    return table


def shape_from_config(
    config: PretrainedConfig, trust_remote_code: bool = False, auto_class: str | None = None
) -> ModelShape:
    """The shape of the model that a configuration describes, without allocating its weights."""
    return shape_of(without_weights(config, trust_remote_code, auto_class))


def without_weights(
    config: PretrainedConfig, trust_remote_code: bool, auto_class: str | None = None
) -> PreTrainedModel:
    """The model that a configuration describes, on the meta device.

    `auto_class` is one of transformers'; where no task says it, the first that has such a model.
    """
    family_of(config)
    return build(config, trust_remote_code, auto_class or class_for(config))


def _numbers(parameter: Any) -> int:
    """Numbers that a parameter stands for: of one in 4 bits, two a byte."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return math.prod(state.shape)
    return int(parameter.numel()) * (2 if str(parameter.dtype) == "torch.uint8" else 1)


def _base(model: PreTrainedModel) -> Any:
    return model.base_model


def _walk(root: nn.Module, name: str, model: PreTrainedModel) -> nn.Module:
    try:
        return root.get_submodule(name)
    except AttributeError as error:
        raise AutopeftError(
            f"model family '{model.config.model_type}': {type(model).__name__} has no module '{name}'; "
            f"the family's row in autopeft/anatomy/_families.py does not fit this version of transformers"
        ) from error


def _has_bias(layer: nn.Module, family: Family, place: str) -> bool:
    there = bool(family.site(place).module) if place in family.cross else bool(getattr(family, place))
    return there and getattr(layer.get_submodule(family.site(place).module), "bias", None) is not None


def _in_out(layer: nn.Module, site: Site, heads: int, kv_heads: int) -> tuple[int, int]:
    module: Any = layer.get_submodule(site.module)
    # Not from the weight of a linear map: quantised ones are packed. transformers' Conv1D (GPT-2) has [in, out].
    conv = hasattr(module, "nf")
    wide_in, wide_out = (module.weight.shape[0], module.nf) if conv else (module.in_features, module.out_features)
    return int(wide_in), site.rows(int(wide_out), heads, kv_heads).size
