"""What is shown while a recipe is followed: each step, and the score after each of its epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from autopeft.candidate import Job

if TYPE_CHECKING:
    from rich.console import Console


class Progress:
    """Shows nothing."""

    def said(self, remark: str) -> None:
        """Something that a user should know."""

    def begun(self, job: Job, parameters: int) -> None:
        """A step begins: a training, or a healing, of so many parameters."""

    def epoch(self, job: Job, metrics: Mapping[str, float]) -> None:
        """An epoch of it has ended."""

    def close(self) -> None:
        """There is no more."""


class Lines(Progress):
    """A line a step, with a line that changes below it in a terminal, or a line an epoch elsewhere."""

    def __init__(self, console: Console, metric: str | None = None) -> None:
        self._console, self.metric = console, metric
        self._status: Any = console.status("opening") if console.is_terminal else None
        if self._status:
            self._status.start()

    def said(self, remark: str) -> None:
        """A line."""
        self._say(f"[dim]{escape(remark)}[/]")

    def begun(self, job: Job, parameters: int) -> None:
        """A line."""
        what = "training" if job.origin is None else "cut, healing"
        epochs = f"{job.epochs} epoch{'s' if job.epochs != 1 else ''}"
        self._say(f"seed {job.seed}: {what} {parameters:,} parameters, {epochs}")

    def epoch(self, job: Job, metrics: Mapping[str, float]) -> None:
        """The score after it; a line that stays after the last."""
        score = {k: v for k, v in metrics.items() if k not in ("epoch", "train_loss", "loss")}
        score = score or {"loss": metrics["loss"]}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in score.items())
        text = f"  epoch {metrics['epoch']}/{job.epochs}: loss {metrics['train_loss']:.4f}, validation {shown}"
        if self._status and metrics["epoch"] != job.epochs:
            self._status.update(escape(text))
        else:
            self._say(escape(text))

    def close(self) -> None:
        """Take the line that changes away."""
        if self._status:
            self._status.stop()

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def progress_for(quiet: bool, console: Console | None = None) -> Progress:
    """Nothing when quiet; else lines on standard error."""
    from rich.console import Console

    return Progress() if quiet else Lines(console or Console(stderr=True, highlight=False))
