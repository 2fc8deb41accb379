"""How a command ends when it is told to: Ctrl-C, `kill`, a terminal that is closed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ended(KeyboardInterrupt):
    """A signal that asks for the end: whoever tidies up at Ctrl-C does so at this too."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.name, self.status = signal.Signals(number).name, 128 + number


@contextmanager
def ended_by_signals(advice: str) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `Ended` inside, which ends the process with a line and 128 + the number.

    A second one ends it at once. What is ignored where the command was started (`nohup`, the background of a script)
    stays ignored. Outside the main thread nothing changes.
    """
    told = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            os._exit(128 + number)
        told = True
        raise Ended(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.getsignal(n) for n in _SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, end)
        yield
    except Ended as ended:
        what = "interrupted" if ended.name == "SIGINT" else f"ended by {ended.name}"
        # The terminal may be gone.
        try:
            print(f"autopeft: {what}; {advice}", file=sys.stderr, flush=True)
        except OSError:
            sys.stderr = None
        sys.exit(ended.status)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
