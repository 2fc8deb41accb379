"""Where q, k, v, o, the feed-forward network and the layers of a model family are: names only, no code a family.

Shape letters used everywhere: L layers (or tokens, where said), d hidden width, f width of the feed-forward network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autopeft.anatomy._families import FAMILIES
from autopeft.anatomy._family import INPUT, MAPS, PLACES, SITES, Family
from autopeft.anatomy._images import noise_images
from autopeft.anatomy._limits import InputLimits, TrainingLoad, input_limits
from autopeft.anatomy._lookup import AUTO_CLASS, build, class_for, family_of, is_recognised, unsupported
from autopeft.anatomy._sites import Rows, Site, joined
from autopeft.errors import AutopeftError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = [
    "AUTO_CLASS", "FAMILIES", "INPUT", "MAPS", "PLACES", "SITES", "Family", "InputLimits", "ModelShape", "Rows", "Site",
    "TrainingLoad", "embeddings_of", "family_of", "head_names", "hidden_of", "input_limits", "is_recognised", "joined",
    "layers_of", "noise_images", "remarks_of", "shape_from_config", "shape_of", "unsupported", "vocabulary_of",
    "with_hidden", "without_weights",
]  # fmt: skip

#: The places that are modules with a weight, and perhaps a bias.
_WITH_WEIGHTS = (*MAPS, "norm1", "norm2")


@dataclass(frozen=True)
class ModelShape:
    """All that counting needs to know of a backbone; every layer has the same shape.

    `sites` maps a site to (in, out) of its linear map; `backbone_params` is the number of parameters of the base model
    without the task's head; `gated` says that the feed-forward network has a second input map of the shape of `up`,
    `biased` which maps and norms have a bias, `embedding` the width that tokens are looked up with (0: that of the
    layers). `words` is how many outputs the frozen head of a language model has (0: it has none), `own_head` the
    numbers of that head which are not the embeddings', and `load` says how it is trained on. `names` are the family's
    for this model (None: those of the table).
    """

    family: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    sites: Mapping[str, tuple[int, int]] = field(hash=False)
    backbone_params: int
    gated: bool = False
    causal: bool = False
    biased: frozenset[str] = frozenset()
    embedding: int = 0
    words: int = 0
    own_head: int = 0
    load: TrainingLoad = field(default_factory=TrainingLoad)
    names: Family | None = field(default=None, hash=False)

    @property
    def row(self) -> Family:
        """The family's names."""
        return self.names or FAMILIES[self.family]

    def has(self, place: str) -> bool:
        """Whether it has this place, or its layers have."""
        if place in ("norm1", "norm2"):
            return place in self.row.norms
        # Where distances are those in the batch, a shorter prompt's masked slots would count.
        prompted = not self.row.images and self.row.positions is None
        there = {"gate": self.gated, "attention": self.row.prefix, INPUT: prompted}
        return there.get(place, True)

    def lacks(self, place: str) -> str:
        """Why it does not have a place."""
        if place == "attention":
            return (
                f"models of family '{self.family}' compute attention by code of their own, which prefixes do not reach"
            )
        if place == INPUT:
            return f"models of family '{self.family}' have no room for prompts among their inputs"
        return f"models of family '{self.family}' have none"

    @property
    def norm_bias(self) -> bool:
        """Whether its norms have a bias."""
        return self.row.norm_bias

    def rows(self, place: str) -> Rows:
        """Which outputs of the module of a place are the place's."""
        site, wide = self.row.site(place), self.width(place)[1]
        if site.parts == 1:
            return Rows(0, wide, wide)
        others = sum(self.sites[name][1] for name in ("q", "k", "v"))
        return site.rows(site.parts * wide if site.layout == "equal" else others, self.heads, self.kv_heads)

    def width(self, place: str) -> tuple[int, int]:
        """(In, out) of a place; `AutopeftError` for one that its layers lack."""
        if place == "gate" and not self.gated:
            raise AutopeftError(f"model family '{self.family}': has no gate, as its feed-forward network is not gated")
        if not self.has(place):
            raise AutopeftError(self.lacks(place))
        if place == INPUT:
            return self.embedding or self.hidden, self.embedding or self.hidden
        if place == "down_in":
            return self.ffn, self.ffn
        if place in ("layer", "layer_in", "norm1", "norm2"):
            return self.hidden, self.hidden
        return self.sites["up" if place == "gate" else place]


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The backbone's layers, lowest first; the row of names is checked against the model."""
    family = family_of(model.config)
    layers = list(_walk(_base(model), family.layers, model).children())
    for name in (family.attention, *family.maps, *(getattr(family, norm) for norm in family.norms)):
        _walk(layers[0], name, model)
    return layers


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
    config, family, layers = model.config, family_of(model.config), layers_of(model)
    query_heads, kv_heads = int(config.num_attention_heads), family.kv_heads_of(config)

    def widths(layer: nn.Module) -> dict[str, tuple[int, int]]:
        return {name: _in_out(layer, family.site(name), query_heads, kv_heads) for name in SITES}

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
        backbone_params=sum(_numbers(p) for p in _base(model).parameters()),
        gated=family.gate is not None,
        causal=family.causal,
        biased=frozenset(place for place in _WITH_WEIGHTS if _has_bias(layers[0], family, place)),
        embedding=embedding if embedding != hidden else 0,
        names=family,
        words=_words(model),
        own_head=_own_head(model),
    )


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
    there = bool(getattr(family, place))
    return there and getattr(layer.get_submodule(family.site(place).module), "bias", None) is not None


def _in_out(layer: nn.Module, site: Site, heads: int, kv_heads: int) -> tuple[int, int]:
    module: Any = layer.get_submodule(site.module)
    # Not from the weight of a linear map: quantised ones are packed. transformers' Conv1D (GPT-2) has [in, out].
    conv = hasattr(module, "nf")
    wide_in, wide_out = (module.weight.shape[0], module.nf) if conv else (module.in_features, module.out_features)
    return int(wide_in), site.rows(int(wide_out), heads, kv_heads).size
