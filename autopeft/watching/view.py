"""A running search on a terminal: lines for rich, and plain ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.markup import escape
from rich.text import Text

from autopeft.watching.now import Machine, Now, Running
from autopeft.watching.picture import Picture, Point
from autopeft.watching.text_plot import ASCII, UNICODE, plot
from autopeft.wording import duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_PHASES = {
    "beginning": "beginning",
    "searching": "searching",
    "confirming": "training the front with other seeds",
    "measuring": "measuring the front on test",
    "ended": "ended",
    "interrupted": "interrupted: the same command goes on",
    "failed": "ended with an error: the same command goes on",
}
#: Lines of the view beside the plot, the plot's least and largest height, and candidates in training that are listed.
_OTHERS, _LEAST, _LARGEST, _LISTED = 16, 5, 14, 6


def in_words(left: float | None, later: float = 0.0) -> str:
    """`about 2.0 min left, then at most 30 s more`; nothing where it is not known."""
    if left is None:
        return ""
    return f"about {duration(left)} left" + (f", then at most {duration(later)} more" if later >= 1 else "")


def status(picture: Picture | None, now: Now) -> str:
    """One plain line on all of it."""
    parts = [_PHASES[now.phase]]
    if picture is not None:
        parts.append(_counts(picture, now))
        if picture.best is not None:
            parts.append(f"best {picture.score} {picture.best.score:.4f} (#{picture.best.number})")
    parts += [now.confirmed, *now.doing, in_words(now.left, now.later)]
    return "; ".join(part for part in parts if part)


def render(picture: Picture | None, now: Now, console: Console) -> RenderableType:
    """The whole view, as high as the terminal lets it be."""
    return Text.from_markup("\n".join(_lines(picture, now, console)), overflow="ellipsis")


def _lines(picture: Picture | None, now: Now, console: Console) -> Iterator[str]:
    width, unicode = max(20, console.width - 1), "utf" in (console.encoding or "").lower()

    def fit(text: str) -> str:
        return _fit(text, width, "…" if unicode else "...")

    yield _head(picture, now, " · " if unicode else " - ")
    for stage in now.doing:
        yield f"[cyan]{fit(stage)}[/]"
    if now.confirmed:
        yield fit(now.confirmed)
    if picture is not None:
        yield fit(_counts(picture, now))
        signs = UNICODE if unicode else ASCII
        height = min(_LARGEST, max(_LEAST, console.height - _OTHERS))
        drawn = plot(picture, min(width, 76), height, signs) if console.height >= _OTHERS else []
        yield from map(escape, drawn)
        for sign, role, point in ((signs.best, "best", picture.best), (signs.knee, "knee", picture.knee)):
            if point is not None:
                yield fit(f"{sign} {role}: {_point(picture, point)}")
        for said in picture.said:
            yield f"[yellow]{fit(said)}[/]"
        for failure in picture.failures:
            yield f"[red]{fit(f'failed: {failure}')}[/]"
    yield from map(fit, _running(now.running))
    last = [text for text in (now.engine, _machine(now.machine)) if text]
    together = "; ".join(last)
    yield from (f"[dim]{fit(text)}[/]" for text in ([together] if cell_len(together) <= width else last))


def _head(picture: Picture | None, now: Now, between: str) -> str:
    took = f"after {duration(now.elapsed)}" if now.phase == "ended" else f"{duration(now.elapsed)} so far"
    head = between.join(part for part in (_PHASES[now.phase], in_words(now.left, now.later), took) if part)
    return f"[bold]{escape(picture.name)}[/] {escape(head)}" if picture else escape(head)


def _fit(text: str, width: int, more: str) -> str:
    """The text in rich's markup; of a longer one than there is room for, its beginning."""
    return escape(text if cell_len(text) <= width else set_cell_size(text, width - len(more)).rstrip() + more)


def _counts(picture: Picture, now: Now) -> str:
    counts = {**dict.fromkeys(("done", "stopped", "failed"), 0), **picture.counts}
    of = f" of {picture.trials:,}" if picture.trials else ""
    ended = sum(counts.values())
    parts = f"{counts['done']} done, {len(now.running)} running, {counts['stopped']} stopped, {counts['failed']} failed"
    return f"{ended:,}{of} candidates: {parts}"


def _point(picture: Picture, point: Point) -> str:
    cost = "" if picture.cost == "number" else f" at {picture.cost} {point.cost:,.0f}"
    return f"#{point.number} {point.key[:8]} {picture.score} {point.score:.4f}{cost}: {point.words}"


def _running(running: Sequence[Running]) -> Iterator[str]:
    for one in running[:_LISTED]:
        score = "" if one.score is None else f", {one.score:.4f}"
        how = f"epoch {min(one.epoch + 1, one.epochs)} of {one.epochs}{score}"
        yield f"  #{one.number} {f'{one.role}: ' if one.role else ''}{how}  {one.words}"
    if len(running) > _LISTED:
        yield f"  and {len(running) - _LISTED} more"


def _machine(machine: Machine) -> str:
    if not machine.total:
        return ""
    gib = 2**30
    memory = f"memory {machine.held / gib:.1f} GiB, {machine.free / gib:.1f} of {machine.total / gib:.1f} GiB free"
    return "; ".join((memory, f"CPUs {machine.cpu:.0%} busy", *machine.devices))
