"""A trained hybrid in the backbone's own weights: what is left is a plain model of transformers.

A place is merged in the order of stages, as its methods act: what only adds (`Method.adds`) is added to what the
methods before it made of the map; others change that. What changes the input of a map comes last.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autopeft.anatomy import ModelShape, Rows, layers_of, shape_of
from autopeft.errors import AutopeftError
from autopeft.folding import fold_at
from autopeft.hybrid import Hybrid
from autopeft.methods import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    Weights = Mapping[str, torch.Tensor]

#: Fields of a configuration that give maps biases which they lack.
_BIASES = ("attention_bias", "mlp_bias", "use_bias", "bias")
_KEEP = "keep the hybrid on the model, or export it"


def unmerged(hybrid: Hybrid) -> list[str]:
    """The names of a hybrid's methods that do not merge into a backbone."""
    return sorted({m.label for m in hybrid.methods() if not m.folded().mergeable})


@torch.no_grad()
def merge(model: PreTrainedModel, hybrid: Hybrid, weights: Weights, safe: bool = False) -> None:
    """Put a hybrid that is not on the model into the model's own weights: the outputs are as with the hybrid on it.

    `weights` are those of `Banks.weights`. `AutopeftError`, before anything is changed, where a method does not merge,
    where the backbone's weights are quantised, where a map needs a bias that models of its kind cannot have (a saved
    model must load again), and with `safe` where a merged weight is no finite number.
    """
    if names := unmerged(hybrid):
        which = ", ".join(f"'{name}'" for name in names)
        raise AutopeftError(f"{which} {'do' if len(names) > 1 else 'does'} not merge into the backbone; {_KEEP}")
    slots, lacking = list(_slots(model, hybrid)), dict[str, str]()
    for slot in slots:
        slot.check()
        # Computed twice, so that nothing is changed before all is known and no copy of the backbone is kept.
        weight, bias = slot.merged(hybrid, weights)
        if safe and not all(bool(t.isfinite().all()) for t in (weight, bias) if t is not None):
            raise AutopeftError(f"merging {slot.name} gives what is no finite number; nothing was changed")
        if bias is not None and getattr(slot.module, "bias", None) is None:
            lacking[slot.name] = " and ".join(dict.fromkeys(f"'{m.label}'" for _, m in slot.methods))
    _give_biases(model, lacking)
    for slot in slots:
        slot.write(*slot.merged(hybrid, weights))


def biases_lacked(model: PreTrainedModel, hybrid: Hybrid) -> str:
    """Why a hybrid that merges could not be saved in models of this kind, as its maps would need biases; else "".

    `model` may be without weights, on PyTorch's device "meta".
    """
    lacking: dict[str, str] = {}
    with torch.device("meta"):
        for slot in _slots(model, hybrid):
            if getattr(slot.module, "bias", None) is not None:
                continue
            own = [(place, m) for place, m in slot.methods if _gives_bias(slot.shape.at(slot.layer), place, m)]
            if own:
                lacking[slot.name] = " and ".join(dict.fromkeys(f"'{m.label}'" for _, m in own))
    try:
        _give_biases(model, lacking, False)
    except AutopeftError as error:
        return str(error)
    return ""


def _gives_bias(shape: ModelShape, place: str, method: Method) -> bool:
    """Whether a method merges into a map without a bias as one with a bias."""
    width, made = shape.width(place), method.folded()
    frozen = torch.empty(width[1], width[0]) if place not in ("norm1", "norm2") else torch.empty(width[1])
    held = {name: torch.empty(weight.shape) for name, weight in made.weights(shape, place).items()}
    try:
        return made.merge(place, held, frozen, None)[1] is not None
    except (KeyError, NotImplementedError, RuntimeError):
        # What it shares is not made here; such methods change weights.
        return False


@dataclass(frozen=True)
class _Slot:
    """One map, rows of a fused map, or norm, and the methods that act there, in their order, each with its place."""

    name: str
    layer: int
    module: Any
    rows: Rows | None
    shape: ModelShape
    methods: tuple[tuple[str, Method], ...]

    def check(self) -> None:
        """`AutopeftError` for weights that are packed."""
        if not self.module.weight.is_floating_point():
            raise AutopeftError(f"{self.name}: a quantised backbone cannot take what is merged; load it without")

    def merged(self, hybrid: Hybrid, weights: Weights) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight [out, in] and bias [out] in fp32 with all its methods in them."""
        frozen = self._weight().float(), None if self._bias() is None else self._bias().float()
        now: tuple[torch.Tensor, torch.Tensor | None] = frozen
        for place, method in self.methods:
            new, own = fold_at(hybrid, method, self.layer, place, weights, self.shape)
            if not own:
                continue
            own = {name: w.to(frozen[0]) for name, w in own.items()}
            now = _sum(now, new.merge(place, own, *frozen), frozen) if method.adds else new.merge(place, own, *now)
        return now

    def write(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Set them."""
        self._put(self._whole_weight(), weight)
        if bias is not None:
            self._put(self.module.bias.data, bias)

    def _put(self, whole: torch.Tensor, own: torch.Tensor) -> None:
        if self.rows is None:
            whole.copy_(own)
        else:
            # What is unchanged is a view of the same memory.
            whole[self.rows.index(whole.device)] = own.to(whole.dtype, copy=True)

    def _whole_weight(self) -> Any:
        whole = self.module.weight.data
        return whole.T if hasattr(self.module, "nf") else whole

    def _weight(self) -> Any:
        return self._part(self._whole_weight())

    def _bias(self) -> Any:
        bias = getattr(self.module, "bias", None)
        return None if bias is None else self._part(bias.data)

    def _part(self, whole: torch.Tensor) -> torch.Tensor:
        return whole if self.rows is None else self.rows.of(whole)


def _slots(model: PreTrainedModel, hybrid: Hybrid) -> Iterator[_Slot]:
    shape = shape_of(model)
    names = {module: name for name, module in model.named_modules()}
    for i, (layer, methods) in enumerate(zip(layers_of(model), hybrid.layers, strict=True)):
        found: dict[tuple[str, Rows | None], list[tuple[str, Method]]] = {}
        own = shape.at(i)
        for method in methods:
            for place in method.places(own):
                at = own.row.site(place)
                key = at.module, own.rows(place) if at.parts > 1 else None
                found.setdefault(key, []).append((place, method.at(place)))
        for (inner, rows), placed in found.items():
            outputs = [one for one in placed if not one[0].endswith("_in")]
            # The first to change the input is the last to be multiplied from the right.
            inputs = [one for one in reversed(placed) if one[0].endswith("_in")]
            module = layer.get_submodule(inner)
            yield _Slot(names[module], i, module, rows, shape, (*outputs, *inputs))


_Map = tuple[torch.Tensor, torch.Tensor | None]


def _sum(now: _Map, changed: _Map, frozen: _Map) -> _Map:
    """`now` and what was added to `frozen`."""
    weight = now[0] + (changed[0] - frozen[0])
    if changed[1] is None:
        return weight, now[1]
    added = changed[1] if frozen[1] is None else changed[1] - frozen[1]
    return weight, added if now[1] is None else now[1] + added


def _give_biases(model: Any, lacking: Mapping[str, str], put: bool = True) -> None:
    """Zero biases, by the model's configuration, for maps that have none.

    `lacking` has the methods by the dotted names of the maps. `AutopeftError` where no configuration gives them.
    Without `put` nothing else is done.
    """
    known = _names(model, model.config) if lacking else set()
    fields, given = [], set[str]()
    for field in _BIASES if lacking else ():
        if getattr(model.config, field, None) is False:
            new = _names(model, model.config, field) - known
            if any(f"{name}.bias" in new for name in lacking):
                fields.append(field)
                given |= new
    for name, methods in lacking.items():
        if f"{name}.bias" not in given:
            raise AutopeftError(
                f"{methods} would give {name} a bias, which a saved {type(model).__name__} cannot have; {_KEEP}"
            )
    for name in given if put else ():
        module = model.get_submodule(name.removesuffix(".bias"))
        module.bias = nn.Parameter(module.weight.new_zeros(module.weight.shape[0]), requires_grad=False)
    for field in fields if put else ():
        setattr(model.config, field, True)


def _names(model: Any, config: Any, field: str = "") -> set[str]:
    """The weights that a model of this kind and configuration has, with a field of it set to true."""
    config = copy.deepcopy(config)
    if field:
        setattr(config, field, True)
    with torch.device("meta"):
        return set(type(model)(config).state_dict())
