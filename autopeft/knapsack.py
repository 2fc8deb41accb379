"""Knapsacks with a choice at each place: the sizes of most gain that cost no more than there is room for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Of the table of the exact solution, room times choices: some tenths of a second.
_CELLS = 30_000_000
#: Halvings of the multiplier's range.
_HALVINGS = 100


@dataclass(frozen=True)
class Options:
    """What is gained and paid at a place for 0, 1, ... of its units: [units + 1] each, 0 first; costs are whole."""

    gains: np.ndarray
    costs: np.ndarray


def chosen(options: Sequence[Options], room: float) -> list[int]:
    """How many units of each place: of most gain, and of no more cost than `room`; none where that is below zero.

    Exact while the room is little, where units are as large as what is left of it; else by a multiplier, whose gain is
    short of the most by less than one place's.
    """
    if room < 0:
        return [0] * len(options)
    if room * sum(len(o.gains) for o in options) <= _CELLS:
        return exact(options, int(room))
    return by_multiplier(options, room)


def exact(options: Sequence[Options], room: int) -> list[int]:
    """By dynamic programming over places and room (Kellerer, Pferschy and Pisinger 2004, section 11.5)."""
    best, choices = np.zeros(room + 1), []
    for o in options:
        new, choice = best.copy(), np.zeros(room + 1, dtype=np.int32)
        for count in range(1, len(o.gains)):
            paid = int(o.costs[count])
            if paid <= room:
                gained = best[: room + 1 - paid] + o.gains[count]
                better = gained > new[paid:]
                new[paid:][better] = gained[better]
                choice[paid:][better] = count
        best = new
        choices.append(choice)
    counts: list[int] = []
    for o, choice in zip(reversed(options), reversed(choices), strict=True):
        counts.append(int(choice[room]))
        room -= int(o.costs[counts[-1]])
    return counts[::-1]


def by_multiplier(options: Sequence[Options], room: float) -> list[int]:
    """By Lagrange: with a multiplier m each place has the size of the largest gain - m cost.

    That is the best of all choices that cost no more in sum (Everett 1963). m is the least with which they fit, found
    by bisection; what it leaves of the room is filled step by step by the best gain for its cost.
    """
    paid = [(o.gains[o.costs > 0], o.costs[o.costs > 0]) for o in options]
    low, high = 0.0, max((float((gains / costs).max()) for gains, costs in paid if len(costs)), default=0.0)
    high = math.nextafter(high, math.inf)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _paid(options, _best(options, middle)) <= room else (middle, high)
    counts = _best(options, high)
    return _filled(options, counts, room - _paid(options, counts))


def _best(options: Sequence[Options], multiplier: float) -> list[int]:
    return [int(np.argmax(o.gains - multiplier * o.costs)) for o in options]


def _paid(options: Sequence[Options], counts: Sequence[int]) -> float:
    return sum(float(o.costs[count]) for o, count in zip(options, counts, strict=True))


def _filled(options: Sequence[Options], counts: list[int], left: float) -> list[int]:
    """More units, as long as there are some that fit and matter: those of the best gain for their cost first."""
    while True:
        steps = [step for i, o in enumerate(options) if (step := _step(o, counts[i], left, i))]
        if not steps:
            return counts
        _, place, count, paid = max(steps, key=lambda step: (step[0], -step[1]))
        counts[place], left = count, left - paid


def _step(o: Options, count: int, left: float, place: int) -> tuple[float, int, int, float] | None:
    """The best way to more units at a place: (gain for its cost, place, units, cost); None where nothing fits."""
    gains, costs = o.gains[count + 1 :] - o.gains[count], o.costs[count + 1 :] - o.costs[count]
    fits = (costs <= left) & (gains > 0)
    if not fits.any():
        return None
    ratios = np.where(fits, gains / np.maximum(costs, 1e-9), -1.0)
    best = int(np.argmax(ratios))
    return float(ratios[best]), place, count + 1 + best, float(costs[best])
