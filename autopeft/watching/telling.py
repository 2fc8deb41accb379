"""Says what is being done: at least every 15 seconds, each stage with its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autopeft.doing import Stage, hear, let_go, stages
from autopeft.wording import duration

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds of silence after which something is said, and before a stage is first spoken of.
HEARTBEAT, SOON = 15.0, 1.0


class Pulse:
    """Calls a function every so many seconds in a thread of its own, until it is ended."""

    def __init__(self, beat: Callable[[], None], every: float) -> None:
        self._beat, self._every, self._ended = beat, every, threading.Event()
        threading.Thread(target=self._run, name="autopeft-pulse", daemon=True).start()

    def end(self) -> None:
        """No call comes any more, but one that has begun."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self._beat()


class Teller:
    """Gives lines to `say`: of stages that take a while, beside them what `otherwise` gives.

    Not `beats`: stages alone, when they have ended.
    """

    def __init__(self, say: Callable[[str], None], otherwise: Callable[[], str] = str, beats: bool = True) -> None:
        self._say, self._otherwise, self._last = say, otherwise, time.monotonic()
        #: Stages that were spoken of while they lasted.
        self._spoken: list[Stage] = []
        hear(self)
        self._pulse = Pulse(self.beat, SOON / 2) if beats else None

    def spoken(self) -> None:
        """Something else was said."""
        self._last = time.monotonic()

    def begun(self, stage: Stage) -> None:
        """A stage that is known to take a while is said at once."""
        self._spoken.append(stage)
        self._tell(f"{stage.words} ...")

    def did(self, stage: Stage) -> None:
        """A stage that took a while has a line with its time."""
        known = any(one is stage for one in self._spoken)
        self._spoken = [one for one in self._spoken if one is not stage]
        if known or (stage.seconds >= SOON and not stage.aside):
            self._tell(f"{stage.words}: {duration(stage.seconds)}")

    def beat(self) -> None:
        """Say what is done, where a stage is new or nothing was said for a while."""
        going = stages()
        new = [one for one in going if one.seconds >= SOON and not any(one is known for known in self._spoken)]
        for stage in (one for one in new if not one.aside):
            self.begun(stage)
        if time.monotonic() - self._last >= HEARTBEAT:
            done = [f"{one.words}, {duration(one.seconds)} so far" for one in going]
            self._tell("; ".join(filter(None, (*done, self._otherwise()))) or "at work")

    def end(self) -> None:
        """Say nothing any more."""
        let_go(self)
        if self._pulse:
            self._pulse.end()

    def _tell(self, text: str) -> None:
        self._last = time.monotonic()
        self._say(text)


def heard_on() -> Console:
    """Where lines are said: on standard error, in a notebook on standard output, as text.

    A notebook shows standard error as a mistake, rich would give each line a box that is scrolled by itself, and what
    is drawn again and again stays there each time, though its streams pass for a terminal.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    return Console(force_jupyter=False, force_terminal=False, highlight=False) if console.is_jupyter else console


@contextmanager
def telling(quiet: bool) -> Iterator[Teller | None]:
    """Inside, stages are said on standard error; nothing is when quiet."""
    if quiet:
        yield None
        return
    console = heard_on()
    teller = Teller(lambda text: console.print(text, style="dim", soft_wrap=not console.is_terminal, markup=False))
    try:
        yield teller
    finally:
        teller.end()
