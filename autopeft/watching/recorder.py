"""Writes what a search is doing into its run folder, for who watches it from elsewhere."""

from __future__ import annotations

from pathlib import Path

from autopeft.watching.board import Board
from autopeft.watching.now import Answer
from autopeft.watching.telling import Pulse

#: Seconds between two writings.
_EVERY = 2.0


class Recorder:
    """Keeps `progress.json` at most two seconds behind a board."""

    def __init__(self, run: Path, board: Board) -> None:
        self._run, self._board = run, board
        self.write()
        self._pulse = Pulse(self.write, _EVERY)

    def write(self) -> None:
        """Write it now."""
        self._board.now().write(self._run)

    def answered(self, answer: Answer) -> None:
        """Written at once: somebody waits for it."""
        self._board.answered(answer)
        self.write()

    def end(self, phase: str) -> None:
        """How the search has ended."""
        self._pulse.end()
        self._board.at(phase)
        self.write()
