"""What a search shows while it runs: what is done, what is left, the best so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from autopeft.candidate import SAMPLER, Evaluation, Job
from autopeft.errors import printable
from autopeft.experiment import Experiment
from autopeft.metrics import without_others
from autopeft.searching.loop import Listener
from autopeft.searching.objective import Objective
from autopeft.watching.board import Board
from autopeft.watching.outlook import Outlook
from autopeft.watching.picture import Terms
from autopeft.watching.telling import Teller, heard_on
from autopeft.watching.view import in_words, render
from autopeft.wording import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from autopeft.engine.setup import Setup
    from autopeft.searching.study import Proposal


class Progress(Listener):
    """Hears a search and keeps its board, which the run folder shows too; what shows more of it adds to that."""

    board: Board

    def on(self, board: Board) -> None:
        """The search begins, before all else is heard of it."""
        self.board = board

    def begun(self, terms: Terms) -> None:
        """What is searched is known."""
        self.board.begun(terms)

    def resumed(self, finished: Sequence[Evaluation]) -> None:
        """The search goes on; so many candidates are finished."""
        self.board.resumed(finished)

    def remarked(self, remarks: Sequence[str]) -> None:
        """The task is tokenised; what a user should know of it."""
        self.board.remarked(remarks)

    def measured(self, setup: Setup) -> None:
        """The engine has been measured; training begins."""
        self.board.measured(setup.words)

    def expecting(self, outlook: Callable[[], Outlook]) -> None:
        """What the search is expected to take."""
        self.board.expecting(outlook)

    def started(self, proposal: Proposal) -> None:
        """A candidate is sent to a worker."""
        self.board.started(proposal)

    def epoch(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        """It has got through an epoch."""
        self.board.epoch(proposal, metrics)

    def finished(self, evaluation: Evaluation) -> None:
        """It is recorded."""
        self.board.finished(evaluation)

    def confirming(self, what: str, done: int, total: int, seconds: float | None) -> None:
        """The search has ended, and its front is trained again with other seeds: `done` of at most `total` trainings.

        `what` are these in words; about so many seconds are left, if that is known.
        """
        self.board.confirming(what, done, total, seconds)

    def testing(self) -> None:
        """What is reported is measured on test."""
        self.board.at("measuring")

    def close(self) -> None:
        """The search has ended, or could not begin."""
        return


class Silent(Progress):
    """Shows nothing."""


def progress_for(experiment: Experiment, quiet: bool) -> Progress:
    """Nothing when quiet, a live view in a terminal, plain lines elsewhere."""
    if quiet:
        return Silent()
    console = heard_on()
    sources = bool(experiment.controls.names) or experiment.descent is not None
    return Lines(console, console.is_terminal, sources)


class Lines(Progress):
    """A line for every finished candidate, and below them (in a terminal) a view of the search that changes.

    Elsewhere something is said at least every 15 seconds. `sources`: not all candidates are the sampler's, so each line
    says what its candidate is.
    """

    def __init__(self, console: Console, live: bool, sources: bool = False) -> None:
        self._console, self._live, self._sources = console, live, sources
        self._before, self._done, self._stopped = 0, 0, 0
        self._best, self._confirming = "", False
        self._best_score: float | None = None
        self._running: dict[int, tuple[str, str]] = {}
        self._view: Live | None = None
        self._teller = Teller(self._dim, self._at_work, beats=not live)

    def on(self, board: Board) -> None:
        """The view begins."""
        super().on(board)
        if self._live:
            self._view = _view(self._console, board)

    def resumed(self, finished: Sequence[Evaluation]) -> None:
        """A line on what is known; the best of it stays the best until it is beaten."""
        super().resumed(finished)
        self._before = len(finished)
        self._stopped = sum(evaluation.status == "stopped" for evaluation in finished)
        for evaluation in finished:
            self._keep_best(evaluation)
        if finished:
            best = f", best {self._best}" if self._best else ""
            self._say(f"[dim]going on after {self._before} finished candidates{best}[/]")

    def remarked(self, remarks: Sequence[str]) -> None:
        """A line each."""
        super().remarked(remarks)
        for remark in remarks:
            self._say(f"[yellow]note:[/] {escape(remark)}")

    def measured(self, setup: Setup) -> None:
        """A line on how it trains."""
        super().measured(setup)
        self._say(f"[dim]{setup.words}[/]")

    def expecting(self, outlook: Callable[[], Outlook]) -> None:
        """A line on how long it will take."""
        super().expecting(outlook)
        if self.board.trials is None or self.board.trials > self._before:
            self._say(f"[dim]expected: {self._left()}[/]")

    def confirming(self, what: str, done: int, total: int, seconds: float | None) -> None:
        """How far it is: in the view, and in a line that stays where there is none, or at the end."""
        super().confirming(what, done, total, seconds)
        self._confirming = True
        if not self._live or done == total:
            self._say(escape(self.board.confirmed))

    def testing(self) -> None:
        """No confirmation is going on any more."""
        super().testing()
        self._confirming = False

    def started(self, proposal: Proposal) -> None:
        """It is known to run."""
        super().started(proposal)
        self._running[proposal.number] = self._role(proposal.job), "epoch 1"

    def epoch(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        """How far it is is known."""
        super().epoch(proposal, metrics)
        score = next((f"{name} {value:.3f}" for name, value in without_others(metrics).items()), "")
        done, epochs = int(metrics.get("epoch", 0)), proposal.job.epochs or self.board.epochs
        how_far = f"epoch {done + 1}, {score}" if done < epochs else f"ending, {score}"
        self._running[proposal.number] = self._role(proposal.job), how_far

    def finished(self, evaluation: Evaluation) -> None:
        """A line on it."""
        super().finished(evaluation)
        self._running.pop(evaluation.number, None)
        self._done += 1
        self._stopped += evaluation.status == "stopped"
        self._keep_best(evaluation)
        count = self._before + self._done
        of = f"{count}/{self.board.trials}" if self.board.trials else f"{count}"
        role = f"{escape(role)}: " if (role := self._role(evaluation)) else ""
        line = f"[bold]{of}[/]  #{evaluation.number} {role}{self._describe(evaluation)}"
        self._say(f"{line}  [dim]{duration(evaluation.seconds)}[/]{'' if self._live else self._so_far()}")

    def close(self) -> None:
        """Take the view away."""
        self._teller.end()
        if self._view:
            self._view.stop()

    def _role(self, trained: Job | Evaluation) -> str:
        """In lines of a search whose candidates have several; else nothing."""
        return printable(trained.role) or (SAMPLER if self._sources else "")

    def _describe(self, evaluation: Evaluation) -> str:
        if evaluation.status == "failed":
            return f"[red]failed: {escape(evaluation.error or '')}[/]"
        name, score = _main_score(evaluation)
        params = evaluation.metrics.get("trainable_params", 0)
        when = (
            f" after {evaluation.fidelity} of {self.board.epochs} epochs, stopped"
            if evaluation.status == "stopped"
            else ""
        )
        return f"{name} [bold]{score:.4f}[/] with {params:,.0f} parameters{when}"

    def _keep_best(self, evaluation: Evaluation) -> None:
        if evaluation.status != "done":
            return
        name, score = _main_score(evaluation)
        sign = 1 if Objective.of(name).direction == "max" else -1
        if self._best_score is None or sign * score > sign * self._best_score:
            self._best_score, self._best = score, f"{score:.4f}"

    def _so_far(self) -> str:
        """What a line says of the whole search, where no view does."""
        stopped = f", {self._stopped} stopped" if self._stopped else ""
        left = f"  [dim]{left}[/]" if (left := self._left()) else ""
        return f"  best {self._best}{stopped}{left}"

    def _left(self) -> str:
        clock = self.board.clock
        left = clock.left()
        return in_words(left, clock.later) if left else ""

    def _at_work(self) -> str:
        """What is done where nothing was said for a while."""
        if not self._running:
            return self.board.confirmed if self._confirming else ""
        best = f"best {self._best}" if self._best else ""
        return "; ".join(filter(None, (f"training {in_line(self._running)}", best, self._left())))

    def _dim(self, text: str) -> None:
        self._console.print(text, style="dim", soft_wrap=not self._live, markup=False)

    def _say(self, text: str) -> None:
        self._teller.spoken()
        self._console.print(text, soft_wrap=not self._live, markup=True)


def _view(console: Console, board: Board) -> Live:
    """A view below the lines, drawn anew twice a second."""
    from rich.live import Live

    def drawn() -> Any:
        return render(board.picture(), board.now(), console)

    live = Live(get_renderable=drawn, console=console, refresh_per_second=2, transient=True)
    live.start()
    return live


def in_line(running: Mapping[int, tuple[str, str]]) -> str:
    """What runs, those of one role together: `control lora 1 (#4 epoch 2; #5 epoch 2); sampler (#6 epoch 1)`."""
    by_role: dict[str, list[str]] = {}
    for number, (role, how_far) in sorted(dict(running).items()):
        by_role.setdefault(role, []).append(f"#{number} {how_far}")
    return "; ".join(f"{role} ({'; '.join(own)})" if role else "; ".join(own) for role, own in by_role.items())


def _main_score(evaluation: Evaluation) -> tuple[str, float]:
    """The first validation metric: the task's main one comes first."""
    return next(iter(without_others(evaluation.metrics).items()), ("score", 0.0))
