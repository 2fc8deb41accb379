"""Writes what a search is doing into its run folder, for who watches it from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.candidate import Evaluation
from autopeft.watching.board import Board
from autopeft.watching.clock import Outlook
from autopeft.watching.now import Answer
from autopeft.watching.picture import Terms
from autopeft.watching.telling import Pulse

if TYPE_CHECKING:
    from autopeft.engine.setup import Setup
    from autopeft.searching.study import Proposal

#: Seconds between two writings.
_EVERY = 2.0


class Recorder:
    """A listener that keeps `progress.json` at most two seconds behind; it hears what a `Progress` does."""

    def __init__(self, run: Path, board: Board, every: float = _EVERY) -> None:
        self._run, self._board = run, board
        self.write()
        self._pulse = Pulse(self.write, every)

    def write(self) -> None:
        """Write it now."""
        self._board.now().write(self._run)

    def begun(self, terms: Terms) -> None:
        """Nothing: the study says it."""

    def resumed(self, finished: Sequence[Evaluation]) -> None:
        """Passed on."""
        self._board.resumed(finished)

    def remarked(self, remarks: Sequence[str]) -> None:
        """Passed on."""
        self._board.remarked(remarks)

    def answered(self, answer: Answer) -> None:
        """Written at once: somebody waits for it."""
        self._board.answered(answer)
        self.write()

    def measured(self, setup: Setup) -> None:
        """Passed on."""
        self._board.measured(setup.words)

    def expecting(self, outlook: Callable[[], Outlook]) -> None:
        """Passed on."""
        self._board.expecting(outlook)

    def confirming(self, what: str, done: int, total: int, seconds: float | None) -> None:
        """Passed on."""
        self._board.confirming(what, done, total, seconds)

    def testing(self) -> None:
        """Passed on."""
        self._board.at("measuring")

    def started(self, proposal: Proposal) -> None:
        """Passed on."""
        self._board.started(proposal)

    def epoch(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        """Passed on."""
        self._board.epoch(proposal, metrics)

    def finished(self, evaluation: Evaluation) -> None:
        """Passed on."""
        self._board.finished(evaluation)

    def end(self, phase: str) -> None:
        """How the search has ended."""
        self._pulse.end()
        self._board.at(phase)
        self.write()

    def close(self) -> None:
        """Nothing: the search goes on after its last training."""
