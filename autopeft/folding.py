"""A trained hybrid as the simplest one that computes the same: AdaLoRA as LoRA, experts as one adapter.

Methods say what they fold to (`Method.folded`, `Method.fold`); here that is put together at each place. What stands at
a place acts in the order of stages, so a method that would change its place in that order past another one folds only
where both do nothing but add (`Method.adds`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import methodcaller
from typing import TYPE_CHECKING, Literal

from autopeft.anatomy import ModelShape
from autopeft.hybrid import Hybrid, shared_names
from autopeft.methods import Method
from autopeft.weight_names import part

if TYPE_CHECKING:
    import torch

    Weights = Mapping[str, torch.Tensor]

#: What methods become: their folded forms; or those in which they are exported, where a folded one may be larger.
Form = Literal["folded", "exported"]
_Becomes = Callable[[Method], Method]


def exported(hybrid: Hybrid) -> Hybrid:
    """The form in which a hybrid is exported: folded, but for methods whose folded form is larger than their own."""
    made = [_exported(methods) for methods in (hybrid.model, *hybrid.layers)]
    if all(new is methods for new, methods in zip(made, (hybrid.model, *hybrid.layers), strict=True)):
        return hybrid
    return Hybrid(tuple(made[1:]), made[0])


def folded(hybrid: Hybrid) -> Hybrid:
    """The hybrid of the simplest methods that computes the same once it is trained; itself where there is none."""
    return _value(hybrid, methodcaller("folded"))


def fold(
    hybrid: Hybrid, weights: Weights, shape: ModelShape, form: Form = "folded"
) -> tuple[Hybrid, dict[str, torch.Tensor]]:
    """`folded(hybrid)` with weights, named like `Banks.weights`.

    With the form "exported" it is `exported(hybrid)`.
    """
    becomes = methodcaller(form)
    new = _value(hybrid, becomes)
    if new is hybrid:
        return hybrid, dict(weights)
    found: dict[str, torch.Tensor] = {}
    names = ("model", *(f"layers.{i}" for i in range(len(hybrid.layers))))
    for where, (methods, own_shape) in zip(names, hybrid.by_layer(shape), strict=True):
        for step in (s for s in _steps(methods, becomes) if own_shape.has(s.place)):
            there = [_weights_of(hybrid, m, where, step.place, weights, shape, step.changes) for m in step.sources]
            if there[0]:
                own = step.method.join(step.forms, there) if len(there) > 1 else there[0]
                found |= {f"{where}.{step.place}.{step.method.bank_name}.{w}": t for w, t in own.items()}
    return new, found | still_shared(hybrid, new, weights, shape)


def fold_at(
    hybrid: Hybrid, method: Method, layer: int, place: str, weights: Weights, shape: ModelShape
) -> tuple[Method, dict[str, torch.Tensor]]:
    """What one of the hybrid's methods folds to at a place, whatever else stands there."""
    single = method.at(place)
    return single.folded(), _weights_of(hybrid, single, f"layers.{layer}", place, weights, shape, True)


@dataclass(frozen=True)
class _Step:
    """What stands at a place in the end, and the methods that it is made of, each in the form that it had then."""

    place: str
    method: Method
    sources: tuple[Method, ...]
    forms: tuple[Method, ...]

    @property
    def changes(self) -> bool:
        """Whether weights change."""
        return self.sources != (self.method,)


# Costs ask the same few layers thousands of times.
@lru_cache(maxsize=65_536)
def _exported(methods: tuple[Method, ...]) -> tuple[Method, ...]:
    steps = _steps(methods, methodcaller("exported"))
    return tuple(step.method for step in steps) if any(step.changes for step in steps) else methods


def _value(hybrid: Hybrid, becomes: _Becomes) -> Hybrid:
    model, *layers = ([*_steps(methods, becomes)] for methods in (hybrid.model, *hybrid.layers))
    if not any(step.changes for steps in (model, *layers) for step in steps):
        return hybrid
    made = tuple(tuple(step.method for step in steps) for steps in layers)
    return Hybrid(made, tuple(step.method for step in model))


def _steps(methods: Sequence[Method], becomes: _Becomes) -> list[_Step]:
    """What a layer's methods become, place by place."""
    places = dict.fromkeys(place for method in methods for place in method.sites)
    return [
        step
        for place in places
        for step in _at_place(place, [m.at(place) for m in methods if place in m.sites], becomes)
    ]


def _at_place(place: str, methods: Sequence[Method], becomes: _Becomes) -> list[_Step]:
    """Methods at one place, in the order of stages."""
    found: list[_Step] = []
    for method in methods:
        new, others = becomes(method), [other for other in methods if other is not method]
        if any(_crosses(method, new, other, becomes) for other in others):
            new = method
        same = next((n for n, step in enumerate(found) if step.method.claim == new.claim), None)
        if same is None and any(other.claim == new.claim for other in others) and new != method and not new.joins:
            new = method
        if same is not None:
            if found[same].method.joins:
                forms = (*found[same].forms, new)
                found[same] = _Step(place, new.joined(forms), (*found[same].sources, method), forms)
                continue
            new = method
        found.append(_Step(place, new, (method,), (new,)))
    return found


def _crosses(method: Method, new: Method, other: Method, becomes: _Becomes) -> bool:
    """Whether a method that becomes `new` would act on another side of what does more than add."""
    low, high = sorted((method.stage, new.stage))
    between = any(low <= stage <= high for stage in (other.stage, becomes(other).stage))
    return low != high and between and not (method.adds and other.adds)


def _weights_of(
    hybrid: Hybrid, method: Method, where: str, place: str, weights: Weights, shape: ModelShape, folds: bool
) -> dict[str, torch.Tensor]:
    own = part(weights, f"{where}.{place}.{method.bank_name}.")
    if not folds or not own:
        return own
    inside = shape.at(int(where.rpartition(".")[2])) if where.startswith("layers.") else shape
    return method.fold(inside, place, own, _shared_of(hybrid, method, weights, shape))


def _shared_of(hybrid: Hybrid, method: Method, weights: Weights, shape: ModelShape) -> dict[str, torch.Tensor]:
    name = shared_names(hybrid, shape).get((method.bank_name, method.bank_options()))
    return part(weights, f"{name}.")


def still_shared(hybrid: Hybrid, new: Hybrid, weights: Weights, shape: ModelShape) -> dict[str, torch.Tensor]:
    """What methods that did not fold share: the leading part, where the largest of them did."""
    names, found = shared_names(new, shape), {}
    for method in new.sharing(shape):
        name, own = names[method.bank_name, method.bank_options()], _shared_of(hybrid, method, weights, shape)
        for w, declared in method.shared(shape).items():
            found[f"{name}.{w}"] = own[w][tuple(slice(0, n) for n in declared.shape)].contiguous()
    return found
