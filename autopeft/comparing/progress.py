"""What a comparison shows while it runs: the rates that were tried, what came out, what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from autopeft.comparing.contenders import Contender
from autopeft.comparing.rows import Row
from autopeft.comparing.state import Training
from autopeft.engine.setup import Setup
from autopeft.searching.objective import Objective
from autopeft.watching.speaker import Speaker
from autopeft.watching.telling import heard_on
from autopeft.wording import duration, with_deviation

if TYPE_CHECKING:
    from rich.console import Console


class Progress:
    """Shows nothing."""

    def said(self, remark: str) -> None:
        """Something that a user should know."""

    def measured(self, setup: Setup) -> None:
        """The engine has been measured; training begins."""

    def planned(self, seconds: Mapping[str, float], trainings: int, done: Sequence[Row], metric: str) -> None:
        """What is left to do, by name in its order: seconds that each is expected to take, and its trainings.

        `done` are rows that are complete.
        """

    def begun(self, contender: Contender, place: int, count: int) -> None:
        """A contender is tuned; it is number `place` of `count`."""

    def trained(self, trainings: Sequence[Training], metric: str) -> None:
        """It was trained at some rates, or with a seed."""

    def finished(self, row: Row, metric: str) -> None:
        """Its row is complete."""

    def close(self) -> None:
        """There is no more."""


class Left:
    """Reckons the seconds that are left of a comparison, from those that were expected of each contender.

    `trainings` is how many each has. What was expected is set against what those have taken that have ended; of the
    one that runs its trainings tell how far it is.
    """

    def __init__(
        self, expected: Mapping[str, float], trainings: int, now: Callable[[], float] = lambda: time.monotonic()
    ) -> None:
        self._left, self._trainings, self._now = dict(expected), trainings, now
        self._took, self._expected = 0.0, 0.0
        #: What runs, since when, how many of its trainings have ended, and when the last one did.
        self._at: tuple[str, float] | None = None
        self._trained, self._last = 0, 0.0

    def begun(self, name: str) -> None:
        """It is at work from now on."""
        self._at, self._trained, self._last = (name, self._now()), 0, self._now()

    def trained(self, count: int) -> None:
        """So many of its trainings have ended."""
        self._trained, self._last = self._trained + count, self._now()

    def finished(self) -> None:
        """It has ended."""
        if self._at is not None:
            name, begun = self._at
            self._took, self._expected = self._took + self._now() - begun, self._expected + self._left.pop(name, 0.0)
            self._at = None

    @property
    def seconds(self) -> float:
        """Of all that has not ended."""
        took, expected, left, since = self._took, self._expected, sum(self._left.values()), 0.0
        if self._at is not None:
            name, begun = self._at
            done = self._left.get(name, 0.0) * min(1.0, self._trained / self._trainings)
            took, expected, left = took + self._last - begun, expected + done, left - done
            since = self._now() - self._last
        seconds = left * (took / expected if expected else 1.0)
        # What runs now is a part of that, but for a training that takes longer than all that is left.
        return max(seconds - since, 0.0)


class Lines(Progress):
    """A line a contender (elsewhere than in a terminal one a training too), and what is being done just now."""

    def __init__(self, console: Console) -> None:
        self._terminal = console.is_terminal
        self._at, self._last, self._best = "", "", ""
        self._best_score: float | None = None
        self._left: Left | None = None
        self._speaker = Speaker(console, self._at_work)

    def said(self, remark: str) -> None:
        """A line."""
        self._speaker.say(f"[dim]{escape(remark)}[/]")

    def measured(self, setup: Setup) -> None:
        """A line on how it trains."""
        self._speaker.say(f"[dim]{setup.words}[/]")

    def planned(self, seconds: Mapping[str, float], trainings: int, done: Sequence[Row], metric: str) -> None:
        """A line on how long it will take."""
        self._left = Left(seconds, trainings)
        for row in done:
            self._keep_best(row, metric)
        each = f"{trainings} training{'s' if trainings != 1 else ''} each"
        self.said(f"expected: {len(seconds)} methods, {each}, about {duration(self._left.seconds)}")

    def begun(self, contender: Contender, place: int, count: int) -> None:
        """It is named from now on; elsewhere than in a terminal by a line."""
        self._at, self._last = f"{contender.name} ({place}/{count})", "tuning its rate"
        if self._left is not None:
            self._left.begun(contender.name)
        if not self._terminal:
            self.said(self._at_work())

    def trained(self, trainings: Sequence[Training], metric: str) -> None:
        """The scores."""
        if self._left is not None:
            self._left.trained(len(trainings))
        for training in trainings:
            what = training.error or f"validation {metric} {training.validation.get(metric, float('nan')):.4f}"
            self._last = f"rate {training.learning_rate:g}, seed {training.seed}: {what}"
            if not self._terminal:
                self.said(f"{self._at}: {self._last}")

    def finished(self, row: Row, metric: str) -> None:
        """A line with its score and rate, or the reason."""
        if self._left is not None:
            self._left.finished()
        self._at = self._last = ""
        self._keep_best(row, metric)
        left = f"  [dim]{escape(said)}[/]" if (said := self._at_work()) else ""
        name = escape(row["method"])
        if row["status"] == "failed":
            self._speaker.say(f"[bold]{name}[/] [red]failed: {escape(str(row['reason']))}[/]{left}")
            return
        score = with_deviation(row[f"test_{metric}"], row[f"test_{metric}_sd"])
        params = f"{row['trainable_params']:,} parameters"
        rate = f"rate {row['learning_rate']:g}"
        self._speaker.say(f"[bold]{name}[/] test {metric} [bold]{score}[/] with {params}, {rate}{left}")

    def close(self) -> None:
        """Nothing changes any more."""
        self._speaker.close()

    def _at_work(self) -> str:
        """What is done, the best so far, what is left."""
        left = 0.0 if self._left is None else self._left.seconds
        about = f"about {duration(left)} left" if left else ""
        return "; ".join(filter(None, (": ".join(filter(None, (self._at, self._last))), self._best, about)))

    def _keep_best(self, row: Row, metric: str) -> None:
        if row["status"] != "done":
            return
        name = f"test_{metric}"
        loss = Objective.of(metric).loss(row[name])
        if self._best_score is None or loss < self._best_score:
            self._best_score, self._best = loss, f"best test {metric} {row[name]:.4f} ({row['method']})"


def progress_for(quiet: bool, console: Console | None = None) -> Progress:
    """Nothing when quiet; else lines on standard error."""
    return Progress() if quiet else Lines(console or heard_on())
