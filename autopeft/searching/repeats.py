"""What counts as another candidate: a learning rate is not structure.

A hybrid at a rate near one that it had is the same training with another seed at most.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

from autopeft.dimensions import Dimension, Ordinal

#: Two values of a training hyper-parameter differ where one is so many times the other.
FACTOR = 1.5
#: The hybrid that adapts nothing is trained at so many values of them.
EMPTY = 3


class Repeats:
    """Structures (whatever tells hybrids apart) with the training hyper-parameters that each was proposed with.

    Those are coordinates in the order of `dimensions`. Of a range two values differ where they are `FACTOR` apart, of
    a list of choices where they are not the same. With `alone` every other value differs: there is
    one structure, and its training is all that is searched.
    """

    def __init__(self, dimensions: Sequence[Dimension], alone: bool = False) -> None:
        self._training = [d for d in dimensions if d.kind == "training"]
        self._alone = alone
        self._known: dict[Hashable, list[tuple[float, ...]]] = {}

    def coordinates(self, training: Mapping[str, float]) -> list[float] | None:
        """Coordinates of training hyper-parameters; None where one is missing, or has none of the choices."""
        try:
            return [float(d.raw(training[d.name])) for d in self._training]
        except (KeyError, ValueError):
            return None

    def add(self, structure: Hashable, raw: Sequence[float]) -> None:
        """A candidate that was proposed, with coordinates of its training hyper-parameters."""
        self._known.setdefault(structure, []).append(self._places(raw))

    def has(self, structure: Hashable, raw: Sequence[float], empty: bool = False) -> bool:
        """Whether a candidate repeats one that was added; `empty` when its structure adapts nothing."""
        known = self._known.get(structure, [])
        if empty and not self._alone and len(known) >= EMPTY:
            return True
        here = self._places(raw)
        if self._alone:
            return here in known
        return any(all(abs(a - b) < 1 - 1e-9 for a, b in zip(here, there, strict=True)) for there in known)

    def _places(self, raw: Sequence[float]) -> tuple[float, ...]:
        """On scales where what is 1 apart differs."""
        return tuple(
            float(value) if isinstance(d, Ordinal) else math.log(value) / math.log(FACTOR)
            for d, value in zip(self._training, raw, strict=True)
        )
