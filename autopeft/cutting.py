"""A trained hybrid made smaller without training: which units stay within a limit, and their weights.

Methods say what their units are (`Method.units`). Which of them stay is a knapsack (`autopeft.knapsack`), where each
method at each place gets a size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autopeft.anatomy import ModelShape
from autopeft.costs import COSTS, Cost
from autopeft.errors import AutopeftError
from autopeft.folding import still_shared
from autopeft.hybrid import Hybrid
from autopeft.knapsack import Options, chosen
from autopeft.methods import Method
from autopeft.methods._units import Units
from autopeft.weight_names import HYBRID, part

if TYPE_CHECKING:
    import torch

    Weights = Mapping[str, torch.Tensor]

_SHARED = f"{HYBRID}shared."
#: Trials of a room for costs that are no sums.
_TRIES = 20


@dataclass(frozen=True)
class Site:
    """One method at one place of a layer (None: before all layers); `name` is its bank's."""

    name: str
    layer: int | None
    place: str
    method: Method

    def units(self, shape: ModelShape) -> Units | None:
        """Its units on a model of this shape; None where it cannot be cut."""
        return self.method.units(shape if self.layer is None else shape.at(self.layer), self.place)

    def sized(self, size: int, layers: int) -> Hybrid:
        """A hybrid of this alone, with so many units."""
        method = (
            self.method if size == self.method.size_value or not self.method.unit_axes else self.method.resized(size)
        )
        if not size:
            return Hybrid.uniform(layers)
        return (
            Hybrid.uniform(layers, method) if self.layer is None else Hybrid.from_layers(layers, {self.layer: [method]})
        )


def sites_of(hybrid: Hybrid, shape: ModelShape) -> list[Site]:
    """All methods of a hybrid, place by place, those before the layers first."""
    return list(_sites(hybrid, shape))


def _sites(hybrid: Hybrid, shape: ModelShape) -> Iterator[Site]:
    for layer, methods in ((None, hybrid.model), *enumerate(hybrid.layers)):
        where = "model" if layer is None else f"layers.{layer}"
        for method in methods:
            for place in method.places(shape if layer is None else shape.at(layer)):
                yield Site(f"{where}.{place}.{method.bank_name}", layer, place, method.at(place))


def canonical(hybrid: Hybrid, weights: Weights, shape: ModelShape) -> dict[str, torch.Tensor]:
    """Weights, named like `Pack.weights`, that compute the same and of which units may be cut (`Method.canonical`)."""
    found = dict(weights)
    for site in sites_of(hybrid, shape):
        if site.units(shape):
            found |= _named(site, site.method.canonical(_own(site, weights)))
    return found


def cut_hybrid(
    hybrid: Hybrid,
    weights: Weights,
    importance: Mapping[str, torch.Tensor],
    limit: int,
    shape: ModelShape,
    cost: Cost | None = None,
    length: int = 128,
) -> tuple[Hybrid, dict[str, torch.Tensor]]:
    """The hybrid of the most important units within a limit, and its weights.

    `weights` are canonical and named like `Pack.weights`, and so are those that come back, which `Pack.load` takes.
    `importance` [units] is by bank (`layers.0.q.lora`), of each method at each place that can be cut; others stay as
    they are. `limit` is on a cost of the whole hybrid, for sequences of `length` tokens where that matters; by default
    on its trainable parameters. A hybrid within the limit stays whole.

    `AutopeftError` where what cannot be cut costs more than the limit, and for an importance that is missing or is no
    finite number.
    """
    cost = cost or COSTS.get("trainable_params")()
    hybrid.check(shape)
    scores = {s: _scores(s, importance, shape) for s in sites_of(hybrid, shape) if s.units(shape)}
    if cost.of(hybrid, shape, length) <= limit:
        return hybrid, dict(weights)
    whole = _whole(hybrid, shape)
    base = cost.of(whole, shape, length)
    if base > limit:
        raise _too_much(whole, base, limit, cost)
    new, keep = _kept(hybrid, scores, (cost, limit, length), limit - base, shape)
    return new, _cut_weights(hybrid, new, weights, keep, shape)


def least_cost(hybrid: Hybrid, shape: ModelShape, cost: Cost, length: int = 128) -> int:
    """The cost of what cannot be cut: no cut of the hybrid has less."""
    return cost.of(_whole(hybrid, shape), shape, length)


def cut_to(
    hybrid: Hybrid, target: Hybrid, weights: Weights, importance: Mapping[str, torch.Tensor], shape: ModelShape
) -> dict[str, torch.Tensor]:
    """The weights of a hybrid's most important units, as many at each place as `target` has there; see `cut_hybrid`.

    `AutopeftError` where `target` is no cut of the hybrid.
    """
    sizes = {s.name: units.count for s in sites_of(target, shape) if (units := s.units(shape))}
    keep = {
        site: _largest(_scores(site, importance, shape), sizes.get(site.name, 0))
        for site in sites_of(hybrid, shape)
        if site.units(shape)
    }
    if _cut(hybrid, keep, shape) != target:
        raise AutopeftError(f"cutting: {target.describe()} is no cut of {hybrid.describe()}")
    return _cut_weights(hybrid, target, weights, keep, shape)


def _kept(
    hybrid: Hybrid,
    scores: Mapping[Site, torch.Tensor],
    limited: tuple[Cost, int, int],
    room: int,
    shape: ModelShape,
) -> tuple[Hybrid, dict[Site, torch.Tensor]]:
    """The cut hybrid, and the units of each place; `limited` is a cost with its limit and length."""
    cost, limit, length = limited
    options = [_options(site, score, cost, shape, length) for site, score in scores.items()]

    def within(room: float) -> tuple[Hybrid, dict[Site, torch.Tensor]]:
        counts = chosen(options, room)
        keep = {site: _largest(score, n) for (site, score), n in zip(scores.items(), counts, strict=True)}
        return _cut(hybrid, keep, shape), keep

    found = within(room)
    if cost.additive and cost.of(found[0], shape, length) <= limit:
        return found
    # The places' own costs do not add up: the room that they are given is what is searched for.
    return within(_most_room(lambda room: cost.of(within(room)[0], shape, length) <= limit, options))


def _most_room(fits: Callable[[float], bool], options: Sequence[Options]) -> float:
    """About the most that places may cost in sum; below zero, where nothing is chosen, if nothing fits."""
    low, high = -1.0, sum(float(o.costs.max()) for o in options)
    for _ in range(_TRIES):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _own(site: Site, weights: Weights) -> dict[str, torch.Tensor]:
    return part(weights, f"{HYBRID}{site.name}.")


def _named(site: Site, own: Weights) -> dict[str, torch.Tensor]:
    return {f"{HYBRID}{site.name}.{name}": w for name, w in own.items()}


def _scores(site: Site, importance: Mapping[str, torch.Tensor], shape: ModelShape) -> torch.Tensor:
    found, units = importance.get(site.name), site.units(shape)
    assert units is not None
    if found is None or found.shape != (units.count,):
        given = "none" if found is None else f"{len(found)}"
        raise AutopeftError(f"cutting: {site.name} needs the importance of {units.count} units, and {given} was given")
    if not bool(found.isfinite().all()):
        raise AutopeftError(f"cutting: the importance at {site.name} is no finite number; its training went wrong")
    return found


def _whole(hybrid: Hybrid, shape: ModelShape) -> Hybrid:
    """The methods that cannot be cut, as they are."""
    model, *layers = (
        tuple(m for m in methods if not any(m.units(own, place) for place in m.places(own)))
        for methods, own in hybrid.by_layer(shape)
    )
    return Hybrid(tuple(layers), model)


def _too_much(whole: Hybrid, base: int, limit: int, cost: Cost) -> AutopeftError:
    names = sorted({f"'{m.label}'" for m in whole.methods()})
    what = f"{', '.join(names)} cannot be cut: what stays" if names else "the bare model"
    return AutopeftError(
        f"cutting: {what} has {base:,} {cost.unit}, and the limit is {limit:,}; raise the limit"
        + (" or leave them out" if names else "")
    )


def _options(site: Site, score: torch.Tensor, cost: Cost, shape: ModelShape, length: int) -> Options:
    """The most important units first."""
    values = score.double().sort(descending=True).values.numpy()
    layers = shape.layers
    empty = cost.of(Hybrid.uniform(layers), shape, length)
    paid = []
    for size in range(len(values) + 1):
        alone = site.sized(size, layers)
        paid.append(cost.of(alone, shape, length) - empty - sum(cost.once(alone, shape).values()) if size else 0)
    return Options(np.concatenate([[0.0], np.cumsum(values)]), np.array(paid, dtype=np.float64))


def _largest(score: torch.Tensor, count: int) -> torch.Tensor:
    """The places of the largest, in rising order."""
    return score.double().sort(descending=True, stable=True).indices[:count].sort().values


def _cut(hybrid: Hybrid, keep: Mapping[Site, torch.Tensor], shape: ModelShape) -> Hybrid:
    """What cannot be cut, and the kept units of the rest."""
    whole = _whole(hybrid, shape)
    model, layers = list(whole.model), [list(methods) for methods in whole.layers]
    for site, units in keep.items():
        method, _ = site.method.cut({}, units)
        (model if site.layer is None else layers[site.layer]).append(method)
    return Hybrid(tuple(map(tuple, layers)), tuple(model))


def _cut_weights(
    hybrid: Hybrid, new: Hybrid, weights: Weights, keep: Mapping[Site, torch.Tensor], shape: ModelShape
) -> dict[str, torch.Tensor]:
    cut = {f"{HYBRID}{site.name}" for site in keep}
    found = {n: w for n, w in weights.items() if n.rpartition(".")[0] not in cut and not n.startswith(_SHARED)}
    for site, units in keep.items():
        found |= _named(site, site.method.cut(_own(site, weights), units)[1])
    shared = still_shared(hybrid, new, part(weights, HYBRID), shape)
    return found | {f"{HYBRID}{name}": w for name, w in shared.items()}
