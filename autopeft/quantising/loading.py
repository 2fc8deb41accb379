"""Opening a backbone with the linear maps of its layers quantised."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from torch import dtype, float32, nn

from autopeft.anatomy import AUTO_CLASS, layers_of, without_weights
from autopeft.errors import AutopeftError
from autopeft.quantising import Kind, bytes_of, check_installed, check_width, configuration
from autopeft.quantising.weights import is_map, quantise_uniform, settle, to_dtype
from autopeft.readouts import Readout

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_Loaded = tuple["PreTrainedModel", dict[str, Any]]


class Source(Protocol):
    """Where a model comes from; see `autopeft.models.ModelSource`."""

    @property
    def name(self) -> str:
        """As the user named it."""

    @property
    def trust_remote_code(self) -> bool:
        """Whether its own code may run."""

    @property
    def quantise(self) -> Kind | None:
        """How the maps of its layers are kept."""

    def config(self, **overrides: Any) -> PretrainedConfig:
        """Its configuration, with these values."""

    def load(self, readout: Readout, **options: Any) -> _Loaded:
        """The model with a head for the readout, and what was missing of it."""


def load_quantised(source: Source, readout: Readout, rest: dtype | str) -> _Loaded:
    """The source's model, quantised from its fp32 weights; all but the maps of its layers in data type `rest`.

    Head, pooler, embeddings and norms stay as they are. `AutopeftError` where it can't be.
    """
    kind, place = source.quantise, f"model '{source.name}'"
    if kind is None:
        raise ValueError("the source says no kind")
    check_installed(kind, place)
    config = source.config(**readout.configuration())
    if getattr(config, "quantization_config", None):
        raise AutopeftError(f"{place}: its checkpoint is quantised already; leave out backbone: quantise")
    described = without_weights(config, source.trust_remote_code, readout.auto_class)
    for wide_in in {_widths(module)[0] for module in _maps_inside(described)}:
        check_width(kind, wide_in, place)
    skip = maps_outside(described)
    options: dict[str, Any] = {}
    if kind != "int4":
        from transformers import BitsAndBytesConfig

        # It warns of a faster kernel for evaluation that is not here, and would not be used.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        options["quantization_config"] = BitsAndBytesConfig(**configuration(kind, skip))
    model, info = source.load(readout, dtype=float32, **options)
    if kind == "int4":
        quantise_uniform(model, skip)
    settle(model)
    if isinstance(rest, dtype):
        to_dtype(model, rest)
    return model, info


def maps_outside(model: PreTrainedModel) -> list[str]:
    """Full names of the linear maps that are in no layer: heads, poolers, projections of embeddings."""
    inside = {id(module) for layer in layers_of(model) for module in layer.modules()}
    return [name for name, module in model.named_modules() if is_map(module) and id(module) not in inside]


def bytes_in_memory(
    config: PretrainedConfig, kind: Kind | None, trusted: bool = False, auto_class: str = AUTO_CLASS
) -> int:
    """Bytes of the backbone's weights, what is not quantised in fp32; none are loaded for it."""
    model = without_weights(config, trusted, auto_class)
    plain = 4 * sum(parameter.numel() for parameter in model.base_model.parameters())
    widths = [_widths(module) for module in _maps_inside(model)]
    return plain + sum(bytes_of(kind, *wide) - bytes_of(None, *wide) for wide in widths)


def _maps_inside(model: PreTrainedModel) -> list[nn.Module]:
    return [module for layer in layers_of(model) for module in layer.modules() if is_map(module)]


def _widths(module: Any) -> tuple[int, int]:
    wide = module.weight.shape
    return (wide[0], wide[1]) if hasattr(module, "nf") else (wide[1], wide[0])
