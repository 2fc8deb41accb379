"""What a trained method can be cut to without training: its units, and its weights with some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from autopeft.anatomy import ModelShape
from autopeft.methods._weights import SAVED, Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._base import Method


@dataclass(frozen=True)
class Units:
    """How many units a method has at a place, and their trainable parameters: of `each`, and beside it of the `first`.

    An adapter's unit is one of its bottleneck; what the first one costs beside is the output's bias.
    """

    count: int
    each: int
    first: int = 0

    def params(self, kept: int) -> int:
        """Trainable parameters of so many units; of none there is nothing."""
        return self.first + kept * self.each if kept else 0


class Cuts:
    """A part of every method; a class that can be cut says so with `unit_axes`.

    Invariants: `cut` to all units changes nothing; cut weights are those of the smaller method; a unit that is cut adds
    nothing any more, and the others add what they added.
    """

    #: By weight, the axis along which the units lie; what is not named belongs to the first unit. An empty mapping:
    #: all of a place is one unit, which zero weights switch off. None: it cannot be cut.
    unit_axes: ClassVar[Mapping[str, int] | None] = None

    def units(self, shape: ModelShape, place: str) -> Units | None:
        """Its units at one place; None where it cannot be cut: what holds other weights than it declares axes for."""
        return _units(cast("Method", self), shape, place)

    def canonical(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights at a place that compute the same, of which units may be cut: each matters for itself."""
        return dict(weights)

    def cut(self, weights: Mapping[str, torch.Tensor], keep: torch.Tensor) -> tuple[Self, dict[str, torch.Tensor]]:
        """The method with the units `keep` (int64, in that order), and its weights at a place.

        With no unit it is the absent method, which has no weights.
        """
        if not len(keep):
            return self.resized(0), {}
        axes = self.unit_axes
        if axes is None:
            raise NotImplementedError(f"method '{cast('Method', self).label}' cannot be cut")
        kept = {n: w.index_select(axes[n], keep.to(w.device)) if n in axes else w.clone() for n, w in weights.items()}
        return (self.resized(len(keep)) if axes else self), kept

    def resized(self, size: int) -> Self:
        """The same method in another size."""
        own = cast(Any, self)
        return cast(Self, replace(own, **{own.size: size}))


@lru_cache(maxsize=65_536)
def _units(method: Method, shape: ModelShape, place: str) -> Units | None:
    axes, size = method.unit_axes, method.size_value
    if axes is None or not size or any(w.kind == "trained" for w in method.shared(shape).values()):
        return None
    if not axes:
        return Units(1, method.site_params(shape, place))
    declared = _saved(method, shape, place)
    if method.step != 1 or not axes.keys() <= declared.keys() or not _grow_by_units(method, declared, shape, place):
        return None
    trained = {name: w for name, w in declared.items() if w.kind == "trained"}
    each = sum(w.entries for name, w in trained.items() if name in axes) // size
    return Units(size, each, method.site_params(shape, place) - size * each)


def _saved(method: Method, shape: ModelShape, place: str) -> dict[str, Weight]:
    return {name: w for name, w in method.weights(shape, place).items() if w.kind in SAVED}


def _grow_by_units(method: Method, declared: Mapping[str, Weight], shape: ModelShape, place: str) -> bool:
    """Whether all weights at another size are those that the axes foretell: a derived class may hold others."""
    other = 1 if method.size_value > 1 else 2
    found, axes = _saved(method.resized(other), shape, place), method.unit_axes or {}
    if found.keys() != declared.keys() or any(w.kept is not None for w in declared.values()):
        return False
    sizes = {n: tuple(other if i == axes.get(n) else m for i, m in enumerate(w.shape)) for n, w in declared.items()}
    return all(w.shape == sizes[name] for name, w in found.items())
