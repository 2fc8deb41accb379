"""Score over cost as characters of a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.watching.picture import Picture, Point

#: Above this ratio of the costs their axis is logarithmic.
_WIDE = 30.0
_SCORE = 8


@dataclass(frozen=True)
class Signs:
    """What stands for whom: the weakest first, as the last one at a place is seen."""

    other: str
    front: str
    knee: str
    best: str


UNICODE, ASCII = Signs("·", "●", "◆", "★"), Signs(".", "o", "K", "B")


def plot(picture: Picture, width: int, height: int, signs: Signs = UNICODE) -> list[str]:
    """Lines of at most `width` characters, `height` of them and two for the axis; none without points."""
    points = [p for p in picture.points if math.isfinite(p.cost) and math.isfinite(p.score)]
    columns = width - _SCORE - 2
    if not points or columns < 8 or height < 3:
        return []
    grid = [[" "] * columns for _ in range(height)]
    costs, scores = [p.cost for p in points], [p.score for p in points]
    log = min(costs) > 0 and max(costs) / min(costs) > _WIDE
    for sign, chosen in _layers(picture, points, signs):
        for p in chosen:
            x = _part(p.cost, min(costs), max(costs), log)
            y = _part(p.score, min(scores), max(scores), False)
            grid[height - 1 - round(y * (height - 1))][round(x * (columns - 1))] = sign
    ends = {0: f"{max(scores):.4g}", height - 1: f"{min(scores):.4g}"}
    lines = [f"{ends.get(i, ''):>{_SCORE}} │{''.join(row)}" for i, row in enumerate(grid)]
    low, high = f"{min(costs):,.4g}", f"{max(costs):,.4g}"
    name = f"{picture.cost}{' (log)' if log else ''}"
    under = low + name.center(max(0, columns - len(low) - len(high))) + high
    plain = signs is ASCII
    lines += [f"{'':>{_SCORE}} └{'─' * columns}", f"{picture.score[:_SCORE]:>{_SCORE}}  {under}"[:width]]
    return [line.translate(_PLAIN) for line in lines] if plain else lines


_PLAIN = str.maketrans("│└─", "|+-")


def _layers(picture: Picture, points: Sequence[Point], signs: Signs) -> list[tuple[str, list[Point]]]:
    numbers = {
        None if one is None else one.number: sign for one, sign in ((picture.knee, "knee"), (picture.best, "best"))
    }
    marked = {sign: [p for p in points if numbers.get(p.number) == sign] for sign in ("knee", "best")}
    return [
        (signs.other, [p for p in points if not p.on_front]),
        (signs.front, [p for p in points if p.on_front]),
        (signs.knee, marked["knee"]),
        (signs.best, marked["best"]),
    ]


def _part(value: float, low: float, high: float, log: bool) -> float:
    if high == low:
        return 0.5
    scale = math.log if log else float
    return (scale(value) - scale(low)) / (scale(high) - scale(low))
