"""What is shown while a recipe is followed: each step, the score after each of its epochs, what is left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.markup import escape

from autopeft.candidate import Job
from autopeft.searching.objective import Objective
from autopeft.watching.speaker import Speaker
from autopeft.watching.telling import heard_on
from autopeft.watching.view import duration

if TYPE_CHECKING:
    from rich.console import Console


class Progress:
    """Shows nothing."""

    def said(self, remark: str) -> None:
        """Something that a user should know."""

    def planned(self, seeds: int, work: float) -> None:
        """So many trainings of the whole recipe are to come; all of them are so much work."""

    def begun(self, job: Job, parameters: int, work: float) -> None:
        """A step begins: a training, or a healing, of so many parameters and so much work."""

    def epoch(self, job: Job, metrics: Mapping[str, float]) -> None:
        """An epoch of it has ended."""

    def followed(self, seed: int, metrics: Mapping[str, float]) -> None:
        """All steps with a seed have ended, with these metrics; with none where one has failed."""

    def close(self) -> None:
        """There is no more."""


class Lines(Progress):
    """A line a step and an epoch, and what is being done just now; in a terminal the epochs are in the latter."""

    def __init__(self, console: Console) -> None:
        self._terminal = console.is_terminal
        self._begin, self._last = time.monotonic(), time.monotonic()
        self._work, self._all, self._step = 0.0, 0.0, 0.0
        self._seeds, self._done = 0, 0
        self._at, self._best = "", ""
        self._best_loss: float | None = None
        self._speaker = Speaker(console, self._at_work)

    def said(self, remark: str) -> None:
        """A line."""
        self._speaker.say(f"[dim]{escape(remark)}[/]")

    def planned(self, seeds: int, work: float) -> None:
        """The clock begins."""
        self._begin, self._seeds, self._all = time.monotonic(), seeds, work

    def begun(self, job: Job, parameters: int, work: float) -> None:
        """A line."""
        what = "training" if job.origin is None else "cut, healing"
        epochs = f"{job.epochs} epoch{'s' if job.epochs != 1 else ''}"
        self._at, self._step = f"seed {job.seed}: {what} {parameters:,} parameters", work
        self._speaker.say(f"{self._at}, {epochs}")

    def epoch(self, job: Job, metrics: Mapping[str, float]) -> None:
        """The score after it; in a terminal a line that stays after the last alone."""
        score = {k: v for k, v in metrics.items() if k not in ("epoch", "train_loss", "loss")}
        score = score or {"loss": metrics["loss"]}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in score.items())
        how_far = f"epoch {metrics['epoch']}/{job.epochs}: loss {metrics['train_loss']:.4f}, validation {shown}"
        self._work, self._last = self._work + self._step / (job.epochs or 1), time.monotonic()
        self._at = f"seed {job.seed}: {how_far}"
        if not self._terminal or metrics["epoch"] == job.epochs:
            self._speaker.say(escape(f"  {how_far}"))

    def followed(self, seed: int, metrics: Mapping[str, float]) -> None:
        """The best so far is kept."""
        self._done += 1
        name = next((name for name in metrics if name not in ("epoch", "train_loss", "loss")), "loss")
        if name in metrics:
            loss = Objective.of(name).loss(metrics[name])
            if self._best_loss is None or loss < self._best_loss:
                self._best_loss, self._best = loss, f"best {name} {metrics[name]:.4f} (seed {seed})"

    def close(self) -> None:
        """Nothing changes any more."""
        self._speaker.close()

    def _at_work(self) -> str:
        """What is done, the best so far, what is left."""
        if not self._at or self._done == self._seeds:
            return self._best
        count = f"{self._done} of {self._seeds} seeds are done" if self._seeds > 1 else ""
        return "; ".join(filter(None, (self._at, count, self._best, self._left())))

    def _left(self) -> str:
        """Known from the first epoch on."""
        if not self._work:
            return ""
        left = (self._last - self._begin) / self._work * (self._all - self._work) - (time.monotonic() - self._last)
        return f"about {duration(max(0.0, left))} left"


def progress_for(quiet: bool, console: Console | None = None) -> Progress:
    """Nothing when quiet; else lines on standard error."""
    return Progress() if quiet else Lines(console or heard_on())
