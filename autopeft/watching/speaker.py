"""What a verb says while it trains: lines that stay, and what is being done just now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.text import Text

from autopeft.doing import stages
from autopeft.watching.telling import Teller
from autopeft.watching.view import duration

if TYPE_CHECKING:
    from rich.console import Console


class Speaker:
    """Says lines, and below them what is being done, with its time, in a terminal; elsewhere every 15 seconds.

    `at_work` says how far all of it is, in plain words, and may be called in another thread.
    """

    def __init__(self, console: Console, at_work: Callable[[], str]) -> None:
        from rich.live import Live

        self._console, self._at_work = console, at_work
        self._teller = Teller(self._dim, at_work, beats=not console.is_terminal)
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(get_renderable=self._drawn, console=console, refresh_per_second=2, transient=True)
            self._live.start()

    def say(self, text: str) -> None:
        """A line, in rich's markup."""
        self._teller.spoken()
        self._console.print(text, soft_wrap=not self._console.is_terminal)

    def close(self) -> None:
        """Say nothing any more; what is being done goes from the terminal."""
        self._teller.end()
        if self._live is not None:
            self._live.stop()

    def _drawn(self) -> Text:
        done = [f"{one.words} ({duration(one.seconds)})" for one in stages()]
        return Text("\n".join(filter(None, (self._at_work(), *done))), style="cyan")

    def _dim(self, text: str) -> None:
        self._console.print(text, style="dim", soft_wrap=not self._console.is_terminal, markup=False)
