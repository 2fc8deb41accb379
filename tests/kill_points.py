"""Ends a search between two lines of it: in this process by an exception, or as a command by a signal to itself."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """Nothing catches it."""


#: Where a search is ended: what is called, at which call, and whether before or after it.
POINTS: dict[str, tuple[str, int, str]] = {
    "the study is made": ("autopeft.searching.study_checks:_storage", 1, "after"),
    "the engine is measured": ("autopeft.searching.study:Study.remember", 2, "before"),
    "the measure is kept": ("autopeft.searching.study:Study.remember", 2, "after"),
    "the first pack is being asked for": ("autopeft.searching.study_file:StudyFile.keep", 2, "before"),
    "the first pack is being stored": ("autopeft.searching.study_file:StudyFile._put", 2, "before"),
    "the first pack is stored": ("autopeft.searching.study_file:StudyFile._store", 1, "after"),
    "the first pack has begun": ("autopeft.searching.loop:SearchLoop.next_pack", 1, "after"),
    "the first pack, its second epoch": ("autopeft.searching.loop:SearchLoop.epoch", 2, "before"),
    "the first pack is being told": ("autopeft.searching.study_file:StudyFile._put", 5, "before"),
    "the first pack is told": ("autopeft.searching.study:Study.tell_all", 1, "after"),
    "the first result is heard of": ("autopeft.launch:Views.finished", 1, "before"),
    "the first table is being written": ("autopeft.run_folder:_whole", 5, "before"),
    "the second pack is being asked for": ("autopeft.searching.study_file:StudyFile.keep", 5, "before"),
    "the second pack is half asked for": ("autopeft.searching.study_file:StudyFile.keep", 5, "after"),
    "the second pack is being stored": ("autopeft.searching.study_file:StudyFile._put", 8, "before"),
    "the second pack is stored": ("autopeft.searching.study:Study.together", 2, "after"),
    "the second pack, its first epoch": ("autopeft.searching.loop:SearchLoop.epoch", 4, "before"),
    "the second pack, its second epoch": ("autopeft.searching.loop:SearchLoop.epoch", 5, "after"),
    "weights are being written": ("autopeft.engine.kept:save_weights", 2, "before"),
    "the second pack, one is finished": ("autopeft.searching.study_file:StudyFile.set_trial_state_values", 5, "before"),
    "the second pack is being told": ("autopeft.searching.study_file:StudyFile._put", 11, "after"),
    "the second pack is told": ("autopeft.searching.study:Study.tell_all", 2, "after"),
    "weights are being dropped": ("autopeft.run_folder:RunFolder.drop_weights", 2, "before"),
    "the last pack is being told": ("autopeft.searching.study_file:StudyFile._put", 14, "before"),
    "the front is measured": ("autopeft.searching.study:Study.annotate", 1, "before"),
    "some of the front is measured": ("autopeft.searching.study:Study.annotate", 1, "after"),
    "plots are being written": ("autopeft.run_folder:RunFolder.write_plots", 1, "before"),
}

#: The same of a search with controls whose front is confirmed.
CONFIRMING: dict[str, tuple[str, int, str]] = {
    "the controls are named": ("autopeft.confirming:keep_controls", 1, "before"),
    "the second pack of controls has begun": ("autopeft.searching.loop:SearchLoop.next_pack", 2, "after"),
    "the first other seed has begun": ("autopeft.searching.confirming.loop:ConfirmLoop.next_pack", 1, "after"),
    "the first other seed is trained": ("autopeft.searching.confirming.loop:ConfirmLoop.done", 1, "before"),
    "the first other seed is kept": ("autopeft.searching.confirming.loop:ConfirmLoop.done", 1, "after"),
    "the second other seed, its first epoch": ("autopeft.searching.confirming.loop:ConfirmLoop.epoch", 4, "before"),
    "the search's own seed is measured on test": ("autopeft.searching.study:Study.annotate", 2, "before"),
    "all seeds are measured on test": ("autopeft.launch:seeds_kept", 1, "before"),
}


def arm(point: str, kill: Callable[[], None], patched: pytest.MonkeyPatch) -> None:
    """Have `kill` called at the point."""
    place, count, when = {**POINTS, **CONFIRMING}[point]
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for inner in owners:
        owner = getattr(owner, inner)
    original, calls = getattr(owner, name), [0]

    def counted(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if when == "before" and calls[0] == count:
            kill()
        result = original(*args, **options)
        if when == "after" and calls[0] == count:
            kill()
        return result

    patched.setattr(owner, name, counted)


def _command() -> None:
    """`kill_points.py EXPERIMENT OUT POINT SIGNAL`: search, and send the signal to oneself at the point."""
    from tiny_project import not_measured

    from autopeft.cli import main

    path, out, point, number = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

    def kill() -> None:
        Path(out).with_suffix(".reached").touch()
        os.kill(os.getpid(), number)
        # A signal is noticed between two instructions of Python.
        time.sleep(5 if number == signal.SIGTERM else 0)

    sys.argv = ["autopeft", "search", path, "--out", out, "--quiet"]
    with not_measured(), pytest.MonkeyPatch.context() as patched:
        arm(point, kill, patched)
        main()


if __name__ == "__main__":
    _command()
