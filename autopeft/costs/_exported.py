"""What the costs of exports share: they are of the hybrid as a whole, as what methods fold to may collide."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping

from autopeft.anatomy import ModelShape
from autopeft.costs._base import Cost
from autopeft.folding import exported
from autopeft.hybrid import Hybrid
from autopeft.methods import Method


class OfExported(Cost):
    """A cost of what is exported: a sum over methods wherever none of them keeps another from being folded."""

    @abstractmethod
    def of_method(self, method: Method, shape: ModelShape) -> int:
        """Of one layer, of a method in its last form."""

    @abstractmethod
    def of_shared(self, method: Method, shape: ModelShape) -> int:
        """Of what a model has once, of a method in its last form."""

    def of(self, hybrid: Hybrid, shape: ModelShape, length: int) -> int:
        """The sum over layers, and what is shared."""
        hybrid.check(shape)
        own = sum(self.of_method(m, there) for methods, there in exported(hybrid).by_layer(shape) for m in methods)
        return own + sum(self.once(hybrid, shape).values())

    def once(self, hybrid: Hybrid, shape: ModelShape) -> Mapping[Hashable, int]:
        """Shared weights of the methods as exported."""
        shared = exported(hybrid).sharing(shape)
        return {(m.name, m.bank_options()): self.of_shared(m, shape) for m in shared}

    def adds_up(self, hybrid: Hybrid, shape: ModelShape) -> bool:
        """Whether each method of a layer costs there what it costs alone."""
        layers = {(methods, shape.at(i)) for i, methods in enumerate(hybrid.layers)}
        return all(self._own(methods, own) == sum(self._own((m,), own) for m in methods) for methods, own in layers)

    def _own(self, methods: tuple[Method, ...], shape: ModelShape) -> int:
        return sum(self.of_method(m, shape) for m in exported(Hybrid((methods,))).methods())
