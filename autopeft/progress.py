"""What a search shows while it runs: what is done, what is left, the best so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from rich.markup import escape

from autopeft.candidate import SAMPLER, Evaluation, Job
from autopeft.errors import printable
from autopeft.experiment import Experiment
from autopeft.searching.loop import Listener
from autopeft.searching.objective import Objective

if TYPE_CHECKING:
    from rich.console import Console

    from autopeft.engine.setup import Setup
    from autopeft.searching.study import Proposal


class Progress(Listener, Protocol):
    """A listener that also hears what is remarkable of the search, and how it trains."""

    def resumed(self, finished: Sequence[Evaluation]) -> None:
        """The search goes on; so many candidates are finished."""

    def remarked(self, remarks: Sequence[str]) -> None:
        """The task is tokenised; what a user should know of it."""

    def measured(self, setup: Setup) -> None:
        """The engine has been measured; training begins."""

    def confirming(self, what: str, done: int, total: int, seconds: float | None) -> None:
        """The search has ended, and its front is trained again with other seeds: `done` of at most `total` trainings.

        `what` are these in words; about so many seconds are left, if that is known.
        """
        return


def progress_for(experiment: Experiment, quiet: bool, console: Console | None = None) -> Progress:
    """Nothing when quiet, a live line in a terminal, plain lines elsewhere."""
    from rich.console import Console

    console = console or Console(stderr=True, highlight=False)
    if quiet:
        return Silent()
    sources = bool(experiment.controls.names) or experiment.descent is not None
    return Lines(console, experiment.trials, experiment.training.epochs, console.is_terminal, sources)


#: Seconds of silence after which a log file gets a line about what is running.
_HEARTBEAT = 30.0


class Silent(Progress):
    """Shows nothing."""

    def resumed(self, finished: Sequence[Evaluation]) -> None:
        """Nothing."""

    def remarked(self, remarks: Sequence[str]) -> None:
        """Nothing."""

    def measured(self, setup: Setup) -> None:
        """Nothing."""

    def started(self, proposal: Proposal) -> None:
        """Nothing."""

    def epoch(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def finished(self, evaluation: Evaluation) -> None:
        """Nothing."""


class Lines(Progress):
    """A line for every finished candidate, and (in a terminal) a last line that says what is running.

    `sources`: not all candidates are the sampler's, so each line says what its candidate is.
    """

    def __init__(self, console: Console, trials: int | None, epochs: int, live: bool, sources: bool = False) -> None:
        self._console, self._trials, self._epochs, self._sources = console, trials, epochs, sources
        self._begin = time.monotonic()
        self._before, self._done, self._stopped, self._best = 0, 0, 0, ""
        self._best_score: float | None = None
        #: What runs, by number: its role, and how far it is.
        self._running: dict[int, tuple[str, str]] = {}
        self._said = self._begin - _HEARTBEAT
        self._status = console.status("starting workers") if live else None
        if self._status:
            self._status.start()

    def resumed(self, finished: Sequence[Evaluation]) -> None:
        """A line on what is known; the best of it stays the best until it is beaten."""
        self._before = len(finished)
        self._stopped = sum(evaluation.status == "stopped" for evaluation in finished)
        for evaluation in finished:
            self._keep_best(evaluation)
        if finished:
            best = f", best {self._best}" if self._best else ""
            self._say(f"[dim]going on after {self._before} finished candidates{best}[/]")

    def remarked(self, remarks: Sequence[str]) -> None:
        """A line each."""
        for remark in remarks:
            self._say(f"[yellow]note:[/] {escape(remark)}")

    def measured(self, setup: Setup) -> None:
        """A line on how it trains."""
        how = f"{setup.precision}, {setup.attention} attention, packs of {setup.pack}"
        # What is left is reckoned from trainings, without what came before them.
        self._begin = time.monotonic()
        self._say(f"[dim]training on {setup.device}: {how}[/]")

    def confirming(self, what: str, done: int, total: int, seconds: float | None) -> None:
        """How far it is: in the last line, and in one that stays where there is none, or at the end."""
        left = f", about {duration(seconds)} left" if seconds is not None and done < total else ""
        text = escape(f"{done}/{total} {what}{left}")
        if self._status:
            self._status.update(text)
        if not self._status or done == total:
            self._say(text)

    def started(self, proposal: Proposal) -> None:
        """A candidate is sent to a worker."""
        self._runs(proposal, "epoch 1")

    def epoch(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        """It has got through an epoch."""
        score = next((f"{k} {v:.3f}" for k, v in metrics.items() if k not in ("epoch", "train_loss")), "")
        done, epochs = int(metrics.get("epoch", 0)), proposal.job.epochs or self._epochs
        self._runs(proposal, f"epoch {done + 1}, {score}" if done < epochs else f"ending, {score}")

    def finished(self, evaluation: Evaluation) -> None:
        """It is recorded."""
        self._running.pop(evaluation.number, None)
        self._done += 1
        self._stopped += evaluation.status == "stopped"
        self._keep_best(evaluation)
        total = f"/{self._trials}" if self._trials else ""
        role = f"{escape(role)}: " if (role := self._role(evaluation)) else ""
        stopped = f", {self._stopped} stopped" if self._stopped else ""
        self._say(
            f"[bold]#{evaluation.number + 1}{total}[/] {role}{self._describe(evaluation)}  "
            f"[dim]{evaluation.seconds:.0f} s[/]  best {self._best}{stopped}{self._left()}"
        )
        self._show()

    def close(self) -> None:
        """Take the live line away."""
        if self._status:
            self._status.stop()

    def _runs(self, proposal: Proposal, how_far: str) -> None:
        self._running[proposal.number] = self._role(proposal.job), how_far
        self._show()

    def _role(self, trained: Job | Evaluation) -> str:
        """In lines of a search whose candidates have several; else nothing."""
        return printable(trained.role) or (SAMPLER if self._sources else "")

    def _describe(self, evaluation: Evaluation) -> str:
        if evaluation.status == "failed":
            return f"[red]failed: {escape(evaluation.error or '')}[/]"
        name, score = _main_score(evaluation)
        params = evaluation.metrics.get("trainable_params", 0)
        when = (
            f" after {evaluation.fidelity} of {self._epochs} epochs, stopped" if evaluation.status == "stopped" else ""
        )
        return f"{name} [bold]{score:.4f}[/] with {params:,.0f} parameters{when}"

    def _keep_best(self, evaluation: Evaluation) -> None:
        if evaluation.status != "done":
            return
        name, score = _main_score(evaluation)
        sign = 1 if Objective.of(name).direction == "max" else -1
        if self._best_score is None or sign * score > sign * self._best_score:
            self._best_score, self._best = score, f"{score:.4f}"

    def _left(self) -> str:
        left = self._trials - self._before - self._done if self._trials else 0
        seconds = (time.monotonic() - self._begin) / self._done * left
        return f"  [dim]about {duration(seconds)} left[/]" if left > 0 else ""

    def _show(self) -> None:
        text = f"training {_in_line(self._running)}" if self._running else "finishing"
        if self._status:
            self._status.update(text)
        elif time.monotonic() - self._said > _HEARTBEAT:
            self._say(text)

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._console.print(text, soft_wrap=True, markup=True)


def _in_line(running: Mapping[int, tuple[str, str]]) -> str:
    """What runs, those of one role together: `control lora 1 (#4 epoch 2; #5 epoch 2); sampler (#6 epoch 1)`."""
    by_role: dict[str, list[str]] = {}
    for number, (role, how_far) in sorted(running.items()):
        by_role.setdefault(role, []).append(f"#{number + 1} {how_far}")
    return "; ".join(f"{escape(role)} ({'; '.join(own)})" if role else "; ".join(own) for role, own in by_role.items())


def _main_score(evaluation: Evaluation) -> tuple[str, float]:
    """The first validation metric: the task's main one comes first."""
    return next(((k, v) for k, v in evaluation.metrics.items() if k not in ("train_loss", "epoch")), ("score", 0.0))


def duration(seconds: float) -> str:
    """90 as '1.5 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
