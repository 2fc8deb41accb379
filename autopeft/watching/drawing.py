"""Where the points of a picture stand on a page: parts of the width and of the height that it has for them."""

from __future__ import annotations

from typing import Any

from autopeft.axes import Axis, compact
from autopeft.watching.picture import Picture

#: The width that axes are worked out for, in pixels.
_WIDTH = 640.0
#: Of dominated candidates so many, in per cent, may stand at the lower edge: a bad one would squeeze the front.
_BELOW = 15


def drawing(picture: Picture) -> dict[str, Any]:
    """`at`: from left and from above, 0 to 1, for each point; `across` and `up`: ticks as `[place, label]`.

    `log`: whether costs are on a logarithmic axis.
    """
    points = picture.points
    x = Axis.over([p.cost for p in points], 0.0, _WIDTH, decades=picture.cost != "number")
    y = Axis.over(_scores(picture), 1.0, 0.0)
    return {
        "at": [[x.at(p.cost) / _WIDTH, y.at(p.score)] for p in points],
        "across": [[x.at(value) / _WIDTH, compact(value)] for value in x.ticks()],
        "up": [[y.at(value), compact(round(value, 10))] for value in y.ticks()],
        "log": x.log,
    }


def _scores(picture: Picture) -> list[float]:
    """Of the front, and of most others."""
    others = sorted((p.score for p in picture.points if not p.on_front), reverse=picture.less_is_better)
    return [*(p.score for p in picture.points if p.on_front), *others[len(others) * _BELOW // 100 :]]
