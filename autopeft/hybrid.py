"""The hybrid: which PEFT methods, of which sizes, sit in which layers. A value; equal values are equal networks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from autopeft.anatomy import ModelShape
from autopeft.doors import door, within
from autopeft.errors import AutopeftError, shown
from autopeft.grid import Grid
from autopeft.methods import Method, method_from_json
from autopeft.wording import ranges

#: Layers of a model, and methods written in one: more than any has.
MOST_LAYERS, _MOST_METHODS = 1_024, 100
#: A hybrid of more parameters than this, and than the whole backbone times this, is a mistake and not an adapter.
_SMALL, _TIMES = 10_000_000, 4


@dataclass(frozen=True)
class Hybrid:
    """`layers[i]` are the methods of layer i, lowest layer first; `model` those before the layers, at place "input".

    Canonical on construction: absent methods (size 0) are dropped, methods that differ in their sites only are joined,
    and the rest is sorted by stage and site. So the order in which methods were written does not matter, and equality
    and hash are those of the network. Two methods of one kind at one site of a layer are refused.
    """

    layers: tuple[tuple[Method, ...], ...]
    model: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        """Bring the layers into canonical form."""
        _check_layers(len(self.layers))
        canonical = tuple(_canonical(methods, f"layer {i}", False) for i, methods in enumerate(self.layers))
        object.__setattr__(self, "layers", canonical)
        object.__setattr__(self, "model", _canonical(self.model, "the model's input", True))

    @classmethod
    def uniform(cls, layers: int, *methods: Method) -> Self:
        """The same methods in each of `layers` layers; those of the whole model once."""
        _check_layers(layers)
        inside = tuple(m for m in methods if not m.of_model)
        return cls((inside,) * layers, tuple(m for m in methods if m.of_model))

    @classmethod
    def from_layers(cls, layers: int, chosen: Mapping[int, Iterable[Method]], model: Iterable[Method] = ()) -> Self:
        """Methods in the chosen layers (0 is the lowest), nothing in the others; `model`: those of the whole model."""
        _check_layers(layers)
        if not isinstance(chosen, Mapping):
            raise AutopeftError(f"hybrid: expected {{layer: [method, ...], ...}}, not {shown(chosen)}")
        wrong = [i for i in chosen if i not in range(layers)]
        if wrong:
            raise AutopeftError(f"hybrid: layer {shown(wrong[0])} does not exist; layers are 0 to {layers - 1}")
        return cls(tuple(_listed(chosen.get(i, ()), f"layer {i}") for i in range(layers)), tuple(model))

    @property
    def is_empty(self) -> bool:
        """True when only the task's head is trained."""
        return not self.model and not any(self.layers)

    @property
    def first_adapted(self) -> int:
        """The lowest layer that is given or does something else than the bare backbone's, L when there is none."""
        if self.model:
            return 0
        return next((i for i, methods in enumerate(self.layers) if methods), len(self.layers))

    def methods(self) -> Iterator[Method]:
        """All methods, those of the model first, then layer by layer."""
        yield from self.model
        for methods in self.layers:
            yield from methods

    @property
    def input_tokens(self) -> int:
        """How many vectors stand among those of a text's tokens."""
        return sum(method.input_tokens() for method in self.model)

    def placed(self, shape: ModelShape | None = None) -> Iterator[tuple[int, str, Method]]:
        """(layer, site, method) one by one, in the order in which a forward pass meets them at each site.

        On a model of `shape`: at the sites that its layers have.
        """
        for i, methods in enumerate(self.layers):
            for method in methods:
                for site in method.sites if shape is None else method.places(shape.at(i)):
                    yield i, site, method

    def by_layer(self, shape: ModelShape) -> Iterator[tuple[tuple[Method, ...], ModelShape]]:
        """Those of the whole model, then each layer's, with the shape that they stand in."""
        yield self.model, shape
        for i, methods in enumerate(self.layers):
            yield methods, shape.at(i)

    def num_params(self, shape: ModelShape) -> int:
        """Trainable parameters without the task's head, exactly; nothing is built."""
        self.check(shape)
        own = sum(_layer_params(methods, there) for methods, there in self.by_layer(shape))
        return own + sum(method.shared_params(shape) for method in self.sharing(shape))

    def sharing(self, shape: ModelShape) -> list[Method]:
        """Of all methods that hold weights once a model: for each kind and its bank options the largest member.

        It stands at all sites at which one of them does.
        """
        members: dict[tuple[Any, ...], list[Method]] = {}
        for methods, there in self.by_layer(shape):
            for method in _sharing(methods, there):
                members.setdefault((method.bank_name, method.bank_options()), []).append(method)
        joined = [_joined(group) for group in members.values()]
        return [method for method in joined if method.shared(shape) or method.shared_bytes(shape)]

    def check(self, shape: ModelShape) -> None:
        """`AutopeftError` when the model has another number of layers, or lacks all places of a method."""
        if len(self.layers) != shape.layers:
            raise AutopeftError(f"hybrid: made for {len(self.layers)} layers, but the model has {shape.layers}")
        for methods, there in self.by_layer(shape):
            _check_places(methods, there)

    def check_room(self, shape: ModelShape) -> None:
        """`AutopeftError` when the hybrid is far larger than the model: before anything is allocated for it."""
        _check_room(self, shape)

    def describe(self) -> str:
        """One short line for people: `prompt_tuning 20; lora 8 q,v in 0-5; prefix 4 in 3; bitfit in 0-11`."""
        groups: dict[str, list[int]] = {}
        for i, methods in enumerate(self.layers):
            for m in methods:
                groups.setdefault(m.brief, []).append(i)
        model = [m.brief for m in self.model]
        return "; ".join(model + [f"{what} in {ranges(where)}" for what, where in groups.items()]) or "head only"

    def summary(self) -> str:
        """A shorter line, for tables: `lora 2-8 in 4, prefix 4 in 1` (sizes, and in how many layers)."""
        return _summary(self)

    def __repr__(self) -> str:
        return f"Hybrid({len(self.layers)} layers: {self.describe()})"

    def _repr_html_(self) -> str:
        return Grid.of(self.layers, self.model).to_html()

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back to an equal hybrid."""
        # Only where there are some: hashes of hybrids without them are those of older versions.
        model = {"model": [m.to_json() for m in self.model]} if self.model else {}
        return {"layers": [[m.to_json() for m in methods] for methods in self.layers], **model}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The hybrid that `to_json` wrote; `AutopeftError` names the layer that is wrong."""
        layers, model = (data.get("layers"), data.get("model", [])) if isinstance(data, Mapping) else (None, [])
        if not isinstance(layers, (list, tuple)) or not all(isinstance(m, (list, tuple)) for m in layers):
            raise AutopeftError("hybrid: expected {'layers': [[method, ...], ...]}")
        _check_layers(len(layers))
        crowded = next((i for i, methods in enumerate(layers) if len(methods) > _MOST_METHODS), None)
        if crowded is not None:
            raise AutopeftError(f"hybrid: layer {crowded} has {len(layers[crowded]):,} methods")
        if not isinstance(model, (list, tuple)) or len(model) > _MOST_METHODS:
            raise AutopeftError(f"hybrid: model must be a list of at most {_MOST_METHODS} methods, not {shown(model)}")
        return cls(
            tuple(tuple(_read(m, f"hybrid: layer {i}") for m in ms) for i, ms in enumerate(layers)),
            tuple(_read(m, "hybrid: model") for m in model),
        )


def _summary(hybrid: Hybrid) -> str:
    sizes: dict[str, list[int]] = {}
    switched = {m.label for methods in hybrid.layers for m in methods if m.largest == 1}
    for methods in hybrid.layers:
        for m in methods:
            sizes.setdefault(m.label, []).append(m.size_value)
    spans = {name: f" {min(v)}-{max(v)}" if min(v) < max(v) else f" {v[0]}" for name, v in sizes.items()}
    spans |= dict.fromkeys(switched, "")
    where = {name: sum(any(m.label == name for m in methods) for methods in hybrid.layers) for name in sizes}
    model = [m.brief for m in hybrid.model]
    return ", ".join(model + [f"{name}{spans[name]} in {where[name]}" for name in sizes]) or "head only"


def _check_room(hybrid: Hybrid, shape: ModelShape) -> None:
    count, most = hybrid.num_params(shape), max(_SMALL, _TIMES * shape.backbone_params)
    if count > most:
        raise AutopeftError(
            f"hybrid: {count:,} parameters on a model of {shape.backbone_params:,}; at most {most:,} are allowed"
        )
    held = _held(hybrid, shape)
    if held > _TIMES * most:
        raise AutopeftError(
            f"hybrid: {held:,} numbers are kept beside a model of {shape.backbone_params:,}, trained or not; at "
            f"most {_TIMES * most:,} are allowed"
        )


def _held(hybrid: Hybrid, shape: ModelShape) -> int:
    """Numbers that are kept beside the model, trained or not."""
    own = (m.held(there, p) for methods, there in hybrid.by_layer(shape) for m in methods for p in m.places(there))
    return sum(own) + sum(m.held(shape, None) for m in hybrid.sharing(shape))


# Repair asks the same few layers thousands of times.
@lru_cache(maxsize=65_536)
def _layer_params(methods: tuple[Method, ...], shape: ModelShape) -> int:
    return sum(method.num_params(shape) for method in methods)


@lru_cache(maxsize=65_536)
def _check_places(methods: tuple[Method, ...], shape: ModelShape) -> None:
    for method in methods:
        if not method.places(shape):
            where = ", ".join(method.sites)
            raise AutopeftError(f"hybrid: '{method.name}' at {where}: {shape.lacks(method.sites[0])}")


@lru_cache(maxsize=65_536)
def _sharing(methods: tuple[Method, ...], shape: ModelShape) -> tuple[Method, ...]:
    return tuple(method for method in methods if shares(method) and method.places(shape))


def shares(method: Method) -> bool:
    """Whether a method may hold weights once a model."""
    return type(method).shared is not Method.shared


def shared_names(hybrid: Hybrid, shape: ModelShape) -> dict[tuple[str, Any], str]:
    """The names of what a hybrid's methods hold once a model, by their bank names and options: `shared.<method>`.

    Where those of one method have different options, a number follows all but the first.
    """
    names: dict[tuple[str, Any], str] = {}
    for key in sorted(((m.bank_name, m.bank_options()) for m in hybrid.sharing(shape)), key=str):
        same = sum(other[0] == key[0] for other in names)
        names[key] = f"shared.{key[0]}{same or ''}"
    return names


def _joined(methods: Sequence[Method]) -> Method:
    """The largest of them, at the sites of all."""
    largest = max(methods, key=lambda m: m.size_value)
    sites = dict.fromkeys(site for m in methods for site in m.sites)
    return largest if len(sites) == len(largest.sites) else largest.at(*sites)


def canonical_json(data: Any) -> str:
    """JSON with sorted keys and no spaces: equal data, equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(data: Any) -> str:
    """12 hexadecimal digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:12]


def _listed(methods: Any, where: str) -> tuple[Method, ...]:
    """The methods that are given for one place; `AutopeftError` for what is no list of methods."""
    given = tuple(methods) if isinstance(methods, Iterable) else None
    if given is None or not all(isinstance(m, Method) for m in given):
        raise AutopeftError(f"hybrid: {where}: expected a list of methods, such as [LoRA(8)], not {shown(methods)}")
    return given


def _check_layers(layers: int) -> None:
    if layers > MOST_LAYERS:
        raise AutopeftError(f"hybrid: {layers:,} layers; at most {MOST_LAYERS:,} are allowed")


def _read(data: Any, where: str) -> Method:
    with within(where), door("not a method", "its fields are wrong"):
        return method_from_json(data)


def _canonical(methods: Iterable[Method], where: str, of_model: bool) -> tuple[Method, ...]:
    methods = tuple(m for m in _listed(methods, where) if m.size_value)
    for m in methods:
        if m.of_model != of_model:
            remedy = "stands before the layers, in `model`" if m.of_model else "stands in layers"
            raise AutopeftError(f"hybrid: '{m.name}' cannot be at {where}: it {remedy}")
    single = [m.at(site) for m in methods for site in m.sites]
    seen: set[tuple[str, str]] = set()
    for m in single:
        if (m.claim, m.sites[0]) in seen:
            raise AutopeftError(f"hybrid: {where} has two '{m.claim}' at site '{m.sites[0]}'; leave one out")
        seen.add((m.claim, m.sites[0]))
    joined: dict[Method, list[str]] = {}
    for m in single:
        joined.setdefault(m.at(m.allowed_sites[0]), []).append(m.sites[0])
    return tuple(sorted((m.at(*sites) for m, sites in joined.items()), key=_order))


def _order(method: Method) -> tuple[Any, ...]:
    return (method.stage, method.name, [method.allowed_sites.index(s) for s in method.sites], repr(method))
