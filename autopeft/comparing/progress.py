"""What a comparison shows while it runs: the rates that were tried, what came out, what is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from autopeft.comparing.contenders import Contender
from autopeft.comparing.rows import Row
from autopeft.comparing.state import Training
from autopeft.engine.setup import Setup
from autopeft.wording import duration, with_deviation

if TYPE_CHECKING:
    from rich.console import Console


class Progress:
    """Shows nothing."""

    def said(self, remark: str) -> None:
        """Something that a user should know."""

    def measured(self, setup: Setup) -> None:
        """The engine has been measured; training begins."""

    def begun(self, contender: Contender, place: int, count: int) -> None:
        """A contender is tuned; it is number `place` of `count`."""

    def trained(self, trainings: Sequence[Training], metric: str) -> None:
        """It was trained at some rates, or with a seed."""

    def finished(self, row: Row, metric: str) -> None:
        """Its row is complete."""

    def close(self) -> None:
        """There is no more."""


class Lines(Progress):
    """A line a contender, and one that changes while it is at work in a terminal (plain lines elsewhere)."""

    def __init__(self, console: Console) -> None:
        self._console, self._begin = console, time.monotonic()
        self._status: Any = console.status("opening") if console.is_terminal else None
        self._at, self._left, self._done = "", 0, 0
        if self._status:
            self._status.start()

    def said(self, remark: str) -> None:
        """A line."""
        self._say(f"[dim]{escape(remark)}[/]")

    def measured(self, setup: Setup) -> None:
        """A line on how it trains."""
        how = f"{setup.precision}, {setup.attention} attention, packs of {setup.pack}"
        self._say(f"[dim]training on {setup.device}: {how}[/]")

    def begun(self, contender: Contender, place: int, count: int) -> None:
        """It is named in the line that changes."""
        self._at, self._left = f"{contender.name} ({place}/{count})", count - place
        self._show("tuning its rate")

    def trained(self, trainings: Sequence[Training], metric: str) -> None:
        """The scores."""
        for training in trainings:
            what = training.error or f"validation {metric} {training.validation.get(metric, float('nan')):.4f}"
            self._show(f"rate {training.learning_rate:g}, seed {training.seed}: {what}", keep=not self._status)

    def finished(self, row: Row, metric: str) -> None:
        """A line with its score and rate, or the reason."""
        self._done += 1
        passed = time.monotonic() - self._begin
        left = f"  [dim]about {duration(passed / self._done * self._left)} left[/]" if self._left else ""
        name = escape(row["method"])
        if row["status"] == "failed":
            self._say(f"[bold]{name}[/] [red]failed: {escape(str(row['reason']))}[/]{left}")
            return
        score = with_deviation(row[f"test_{metric}"], row[f"test_{metric}_sd"])
        params = f"{row['trainable_params']:,} parameters"
        self._say(f"[bold]{name}[/] test {metric} [bold]{score}[/] with {params}, rate {row['learning_rate']:g}{left}")

    def close(self) -> None:
        """Take the line that changes away."""
        if self._status:
            self._status.stop()

    def _show(self, what: str, keep: bool = False) -> None:
        text = f"{self._at}: {what}"
        if self._status:
            self._status.update(escape(text))
        elif keep:
            self._say(f"[dim]{escape(text)}[/]")

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def progress_for(quiet: bool, console: Console | None = None) -> Progress:
    """Nothing when quiet; else lines on standard error."""
    from rich.console import Console

    return Progress() if quiet else Lines(console or Console(stderr=True, highlight=False))
