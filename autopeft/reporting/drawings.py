"""Drawings of a report, in SVG: what they show is in their titles too, for hovering and for screen readers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from autopeft.axes import Axis, compact
from autopeft.candidate import Evaluation
from autopeft.markup import Html, joined, tag
from autopeft.searching.explanation import Share
from autopeft.searching.front import ParetoFront
from autopeft.searching.keys import named
from autopeft.searching.plots import costs_of
from autopeft.searching.tables import marks
from autopeft.wording import spaced, with_deviation

#: Pixels of a plot, and around its axes.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 400, 64, 20, 34, 48
#: Of dominated candidates so many, in per cent, may lie below the axis: a bad one would squeeze the front.
_BELOW = 15


def front_drawing(front: ParetoFront, keys: Mapping[str, str]) -> Html:
    """Score over cost (over the candidate's number without a cost): the front, controls, and what is dominated."""
    on = {e.number for e in front.points}
    others = [e for e in front.done if e.number not in on]
    x = Axis.over([_cost(front, e) for e in front.done], _LEFT, _WIDTH - _RIGHT, decades=True)
    y = _scores(front, others)
    names = front.verdict.names
    dots = [_dot(front, e, x, y, keys, "control" if e.key in names else "other") for e in others]
    points = [_dot(front, e, x, y, keys, _kind(front, e)) for e in front.points]
    bars = [_bar(front, e, x, y) for e in front.points]
    label = spaced(front.score.metric) + (" (less is better)" if front.score.direction == "min" else "")
    below = spaced(front.cost.metric) if front.cost else "candidate"
    legend = [("on", "front"), ("other", "dominated"), *([("control", "control")] if names else [])]
    legend += [("on open", "not confirmed")] if front.unconfirmed else []
    inside = [_frame(x, y, below, label), _legend(legend), *dots, _stairs(front, x, y), *bars, *points]
    return _drawing(_WIDTH, _HEIGHT, "The Pareto front", *inside, *_named(front, x, y))


def beyond(front: ParetoFront) -> int:
    """How many dominated candidates are worse than the axis of the front's drawing goes: they lie on its edge."""
    others = [e for e in front.done if e.number not in {p.number for p in front.points}]
    y = _scores(front, others)
    return sum(not y.low <= _score(front, e) <= y.high for e in others)


def course_drawing(front: ParetoFront) -> Html | None:
    """The score after each epoch, of the front's members and of all others; None where no course has two epochs."""
    name, on = front.score.metric, {e.number for e in front.points}
    courses = [(e, [c[name] for c in e.curve if math.isfinite(c.get(name, math.nan))]) for e in front.evaluations]
    courses = sorted(((e, c) for e, c in courses if len(c) > 1), key=lambda each: each[0].number in on)
    if not courses:
        return None
    most = max(len(c) for _, c in courses)
    x = Axis(1, most, _LEFT, _WIDTH - _RIGHT)
    values = sorted(v for _, c in courses for v in c)
    room = values[len(values) * 3 // 100 : len(values) - len(values) * 3 // 100]
    y = Axis.over(room, _HEIGHT - _BOTTOM, _TOP)
    lines = [
        tag(
            "polyline",
            tag("title", f"{named(e)}: {', '.join(f'{v:.4f}' for v in course)}; {e.candidate.hybrid.summary()}"),
            points=" ".join(f"{x.at(i):.1f},{y.at(v):.1f}" for i, v in enumerate(course, 1)),
            class_="course on" if e.number in on else "course",
        )
        for e, course in courses
    ]
    legend = _legend([("on", "front"), ("other", "others; a stopped one ends early")])
    whole = [tick for tick in x.ticks() if tick == int(tick)]
    frame = _frame(x, y, "epoch", spaced(name), whole)
    return _drawing(_WIDTH, _HEIGHT, "Scores by epoch", frame, legend, *lines)


def heat_drawing(rows: Sequence[tuple[str, Sequence[tuple[float, str]]]], columns: Sequence[str]) -> Html:
    """Layers by methods: for each cell its share of the front's members, 0 to 1, and what it holds in words.

    The first row is the lowest layer, and stands at the bottom.
    """
    wide, high, left, top = 78, 24, 56, 64
    inside = [_words(left - 8, top - 8, "layer", "label", "end")]
    for column, name in enumerate(columns):
        at = left + column * wide + wide / 2
        inside.append(_words(at, top - 10, name, "tick", "start", rotate=-30))
    for row, (name, cells) in enumerate(reversed(rows)):
        y = float(top + row * high)
        inside.append(_words(left - 8, y + high / 2 + 4, name, "tick", "end"))
        for column, (share, said) in enumerate(cells):
            x = float(left + column * wide)
            box = {"x": x + 1, "y": y + 1, "width": wide - 2, "height": high - 2, "rx": 3}
            inside.append(tag("rect", tag("title", said), class_="heat none", **box))
            if share:
                opacity = f"{0.12 + 0.88 * share:.2f}"
                inside.append(tag("rect", tag("title", said), class_="heat", fill_opacity=opacity, **box))
                shade = "cell dark" if share > 0.5 else "cell"
                inside.append(_words(x + wide / 2, y + high / 2 + 4, f"{share:.0%}", shade, "middle"))
    width, height = left + wide * len(columns) + 60, top + high * len(rows) + 8
    return _drawing(width, height, "Layers by methods", *inside)


def share_drawing(shares: Sequence[tuple[str, Share]]) -> Html:
    """Bars: the share of variance with interactions, and within it the share alone."""
    left, high, width = 170, 22, _WIDTH
    scale = (width - left - 60) / max(0.01, *(share.total for _, share in shares))
    inside: list[Html] = []
    for i, (name, share) in enumerate(shares):
        y = float(8 + i * high)
        said = f"{name}: {share.total:.3f} with interactions, {share.first:.3f} alone, {share.forest:.3f} by the forest"
        for value, kind in ((share.total, "bar faint"), (share.first, "bar")):
            box = {"x": left, "y": y + 3, "width": value * scale, "height": high - 8, "rx": 2}
            inside.append(tag("rect", tag("title", said), class_=kind, **box))
        inside.append(_words(left - 8, y + high / 2 + 3, name, "tick", "end"))
        inside.append(_words(left + share.total * scale + 6, y + high / 2 + 3, f"{share.total:.2f}", "tick", "start"))
    return _drawing(width, 16 + high * len(shares), "Shares of variance", *inside)


def _cost(front: ParetoFront, e: Evaluation) -> float:
    return costs_of(front, [e])[0]


def _score(front: ParetoFront, e: Evaluation) -> float:
    return front.value_of(e, front.score)


def _deviation(front: ParetoFront, e: Evaluation) -> float:
    spread = front.spread(e, front.score.metric)
    return 0.0 if spread is None or math.isnan(spread.sd) else spread.sd


def _scores(front: ParetoFront, others: Sequence[Evaluation]) -> Axis:
    return Axis.over(_shown(front, others), _HEIGHT - _BOTTOM, _TOP)


def _shown(front: ParetoFront, others: Sequence[Evaluation]) -> list[float]:
    """Scores that the axis has to hold: those of the front with their bars, and most others."""
    losses = sorted((front.loss_of(e, front.score) for e in others), reverse=True)
    kept = [front.score.loss(v) for v in losses[len(losses) * _BELOW // 100 :]]
    ends = [_score(front, e) + sign * _deviation(front, e) for e in front.points for sign in (-1, 1)]
    return [*kept, *ends]


def _dot(front: ParetoFront, e: Evaluation, x: Axis, y: Axis, keys: Mapping[str, str], kind: str) -> Html:
    sd, key = _deviation(front, e), keys[e.key]
    score = with_deviation(_score(front, e), sd or None)
    more = f", control {front.verdict.names[e.key]}" if e.key in front.verdict.names else ""
    more += ", not confirmed" if "open" in kind.split() else ""
    cost = f"{_cost(front, e):,.0f} {spaced(front.cost.metric)}" if front.cost else f"candidate {e.number}"
    said = tag("title", f"{named(e, keys)}{more}\n{score} at {cost}\n{e.candidate.hybrid.summary()}")
    shape = _mark(x.at(_cost(front, e)), y.at(_score(front, e)), kind, said)
    return tag("a", shape, href=f"#c{key}") if "on" in kind.split() else shape


def _kind(front: ParetoFront, e: Evaluation) -> str:
    """Of a member of the front: empty, where it was not trained with other seeds as others were."""
    kind = "control on" if e.key in front.verdict.names else "on"
    return f"{kind} open" if e.number in front.verdict.expected else kind


def _mark(x: float, y: float, kind: str, said: Html | None = None) -> Html:
    """A diamond for controls, a circle for others."""
    if "control" not in kind:
        return tag("circle", said, cx=x, cy=y, r=5.0 if "on" in kind.split() else 3.5, class_=f"dot {kind}")
    box = {"x": x - 4, "y": y - 4, "width": 8, "height": 8}
    return tag("rect", said, class_=f"dot {kind}", transform=f"rotate(45 {x:.1f} {y:.1f})", **box)


def _bar(front: ParetoFront, e: Evaluation, x: Axis, y: Axis) -> Html | None:
    """A standard deviation to each side."""
    sd, score, at = _deviation(front, e), _score(front, e), x.at(_cost(front, e))
    if not sd:
        return None
    low, high = y.at(score - sd), y.at(score + sd)
    ends = "".join(f"M{at - 4:.1f} {v:.1f}h8" for v in (low, high))
    return tag("path", d=f"M{at:.1f} {low:.1f}V{high:.1f}{ends}", class_="error")


def _stairs(front: ParetoFront, x: Axis, y: Axis) -> Html:
    """The best score for each cost, up to the dearest of all."""
    at = [(x.at(_cost(front, e)), y.at(_score(front, e))) for e in front.points]
    steps = "".join(f"H{b[0]:.1f}V{b[1]:.1f}" for _, b in pairwise(at))
    return tag("path", d=f"M{at[0][0]:.1f} {at[0][1]:.1f}{steps}H{x.end:.1f}" if at else "", class_="stairs")


def _named(front: ParetoFront, x: Axis, y: Axis) -> Iterator[Html]:
    """The best and the knee have their names beside them."""
    names = marks(front)
    for e in front.points:
        if name := names.get(e.number):
            at, low = x.at(_cost(front, e)), front.score.direction == "min"
            # On the side of the front where nothing is.
            end = y.at(_score(front, e) + (-1 if low else 1) * _deviation(front, e))
            yield _words(at, end + 20 if low else max(end - 10, _TOP - 4), name, "name", "end")


def _frame(x: Axis, y: Axis, below: str, beside: str, ticks: Sequence[float] | None = None) -> Html:
    """Grid lines, numbers at the axes, and what they are of."""
    parts: list[Html] = []
    for value in y.ticks():
        at = y.at(value)
        parts.append(tag("line", x1=x.start, x2=x.end, y1=at, y2=at, class_="grid"))
        parts.append(_words(x.start - 8, at + 4, compact(round(value, 10)), "tick", "end"))
    for value in x.ticks() if ticks is None else ticks:
        at = x.at(value)
        parts.append(tag("line", x1=at, x2=at, y1=y.start, y2=y.start + 5, class_="axis"))
        parts.append(_words(at, y.start + 20, compact(value), "tick", "middle"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    parts.append(_words((x.start + x.end) / 2, y.start + 40, below, "label", "middle"))
    parts.append(_words(x.start - 54, _TOP - 16, beside, "label", "start"))
    return joined(parts)


def _legend(entries: Sequence[tuple[str, str]]) -> Html:
    """Marks with what they are, at the right end: one text, so that they stand well at any size of letters."""
    parts: list[Html] = []
    for kind, words in entries:
        sign = "◇" if kind == "control" else "○" if "open" in kind.split() else "●"
        parts += [tag("tspan", sign, class_=f"key {kind}", dx=18 if parts else None), tag("tspan", f" {words}")]
    return tag("text", *parts, x=_WIDTH - _RIGHT, y=_TOP - 16, class_="tick", text_anchor="end")


def _words(x: float, y: float, said: str, kind: str, anchor: str, rotate: int = 0) -> Html:
    turned = f"rotate({rotate} {x:.1f} {y:.1f})" if rotate else None
    return tag("text", said, x=float(x), y=float(y), class_=kind, text_anchor=anchor, transform=turned)


def _drawing(width: float, height: float, title: str, *inside: object) -> Html:
    """A plot is as wide as the text; what has a column for each method is scrolled on a narrow one."""
    own = f"width:{width:.0f}px;min-width:{0.8 * width:.0f}px"
    style, kind = ("width:100%", "plot") if width == _WIDTH else (own, None)
    box = {"viewBox": f"0 0 {width:.0f} {height:.0f}", "style": style, "class_": kind}
    return tag("svg", tag("title", title), *inside, xmlns="http://www.w3.org/2000/svg", role="img", **box)
