"""Costs of rows of a space: sums over tables where a cost adds up, hybrid by hybrid where it does not.

Shapes: N rows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from autopeft.costs import COSTS
from autopeft.hybrid import Hybrid

if TYPE_CHECKING:
    from autopeft.searching.known_cost.points import Points


class Table:
    """One cost of rows: sums of what each size adds where the cost is additive, else hybrid by hybrid, remembered."""

    def __init__(self, points: Points, name: str) -> None:
        self._points, self._source = points, COSTS.get(name)()
        self._known: dict[bytes, float] = {}

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Costs [N]."""
        if not self._additive:
            return np.array([self._one(row) for row in rows], dtype=float)
        base, parts = self._parts
        levels = rows[:, self._sizes].astype(int)
        total = np.full(len(rows), base.own)
        once = {key: np.full(len(rows), float(amount)) for key, amount in base.once.items()}
        for bit, alone, table, shared in parts:
            # By place in the flat table: half the time of two indices.
            places = levels + np.arange(len(table)) * table.shape[1]
            on = np.ones(len(rows), dtype=bool) if bit is None else rows[:, bit] > 0
            total += np.where(on, alone.own + table.ravel()[places].sum(axis=1), 0.0)
            for key, amounts in shared.items():
                largest = amounts.ravel()[places].max(axis=1, initial=alone.once.get(key, 0))
                once[key] = np.maximum(once.get(key, 0.0), np.where(on, largest, 0.0))
        return total + sum(once.values())

    @cached_property
    def _additive(self) -> bool:
        """Not where some methods have all others see more tokens, or keep others from being folded."""
        if not self._source.additive or (self._source.by_tokens and self._points.space.of_model):
            return False
        every = {i: max(0, int(n) - 1) for i, n in enumerate(self._points.levels)}
        return self._source.adds_up(self._hybrid(every), self._points.space.shape)

    @cached_property
    def _sizes(self) -> list[int]:
        """The dimensions that are sizes."""
        return [i for i, d in enumerate(self._points.dimensions) if d.kind == "size"]

    @cached_property
    def _parts(self) -> tuple[Bill, list[tuple[int | None, Bill, np.ndarray, dict[Hashable, np.ndarray]]]]:
        """(The empty hybrid's cost, and for each layer's bit - or for all, where there are none - what it costs alone,
        what the levels of the sizes add [sizes, levels], and what of each they pay once a model, by what it is for).

        What stands before the layers depends on no bit.
        """
        dimensions, sizes, before = self._points.dimensions, self._sizes, self._points.space.of_model
        bits: list[int | None] = [i for i, d in enumerate(dimensions) if d.kind == "bit"]
        base = self._bill({})
        parts = []
        for bit in [*bits, None]:
            on = {} if bit is None else {bit: 1}
            alone = self._bill(on)
            table = np.zeros((len(sizes), int(self._points.levels.max(initial=1))))
            shared = {key: np.zeros_like(table) for key in alone.once}
            for row, i in enumerate(sizes):
                of_model = getattr(dimensions[i], "block", None) in before
                for level in range(self._points.levels[i] if not bits or of_model == (bit is None) else 0):
                    bill = self._bill({**on, i: level})
                    table[row, level] = bill.own - alone.own
                    for key, amount in bill.once.items():
                        shared.setdefault(key, np.zeros_like(table))[row, level] = amount
            parts.append((bit, Bill(alone.own - base.own, alone.once), table, shared))
        return base, parts

    def _one(self, row: np.ndarray) -> float:
        key = row[self._points.structure].tobytes()
        if key not in self._known:
            chosen = {i: int(v) for i, v in enumerate(row) if self._points.structure[i]}
            self._known[key] = self._cost(chosen)
        return self._known[key]

    def _cost(self, levels: Mapping[int, int]) -> float:
        """The cost of the hybrid with these levels, and 0 elsewhere."""
        return float(self._source.of(self._hybrid(levels), self._points.space.shape, self._points.budget.length))

    def _bill(self, levels: Mapping[int, int]) -> Bill:
        """The same, with what is paid once apart."""
        once = self._source.once(self._hybrid(levels), self._points.space.shape)
        return Bill(self._cost(levels) - sum(once.values()), once)

    def _hybrid(self, levels: Mapping[int, int]) -> Hybrid:
        point = {d.name: levels.get(i, 0) for i, d in enumerate(self._points.dimensions)}
        return self._points.space.hybrid(point)


@dataclass(frozen=True)
class Bill:
    """What a hybrid costs: its layers, and what a model pays once, by what it is for."""

    own: float
    once: Mapping[Hashable, int]
