"""Ends a search between two lines of it: in this process by an exception, or as a command by a signal to itself."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_project import not_measured, write_experiment


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
    "weights are being written": ("autopeft.engine.kept:replacing", 2, "before"),
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


Counts = Callable[..., bool]
_LOOP, _SEEDS = "autopeft.searching.loop:SearchLoop", "autopeft.searching.confirming.loop:ConfirmLoop"
_WEIGHTS = "autopeft.engine.kept:replacing"


def _every(*args: Any, **options: Any) -> bool:
    return True


def _of(role: str) -> Counts:
    """Calls of a search's loop with a pack of this role; the sampler's is none."""
    return lambda loop, pack: all(loop._running[n].job.role.partition(" ")[0] == role for n in pack)


def _again(healed: bool) -> Counts:
    """Calls of a confirmation's loop with a healed one in the pack, or one that is trained for the sake of such."""

    def counts(loop: Any, pack: Mapping[int, Any]) -> bool:
        jobs = [loop._running[ticket][1] for ticket in pack]
        return any(job.origin is not None if healed else job.origin is None and job.cuttable for job in jobs)

    return counts


def _named(*parts: str) -> Counts:
    """Writings of weights that have these parts in their names, and are not of a healed one."""
    return lambda path: all(part in path.name for part in parts) and "-from-" not in path.name


def _half(part: str) -> Counts:
    """Weights of this part in their name, when all of them is written, but under another name."""
    return lambda path, to: part in path.name


def _by(caller: str) -> Counts:
    """Calls by that function."""
    return lambda *args, **options: sys._getframe(2).f_code.co_name == caller


#: The same of a search with controls, a descent, a sampler, and a front with healed members that is confirmed; the
#: fourth says which calls count.
PHASES: dict[str, tuple[str, int, str, Counts]] = {
    "controls, their last epoch": (f"{_LOOP}.epoch", 3, "before", _of("control")),
    "large hybrids, their second epoch": (f"{_LOOP}.epoch", 2, "after", _of("large")),
    "what cutting needs is being written": (_WEIGHTS, 2, "before", _named("-units")),
    "what cutting needs is half written": ("pathlib:Path.replace", 1, "before", _half("-units")),
    "large hybrids are being told": (f"{_LOOP}.done", 1, "before", _of("large")),
    "a cut is being written": (_WEIGHTS, 1, "before", _named("-cut-")),
    "a cut is written": ("autopeft.searching.study:Study.propose", 1, "before", lambda _, job, *more: job.origin),
    "half a pack of healings is asked for": (
        "autopeft.searching.study:Study.propose", 3, "after", lambda _, job, *more: job.origin,
    ),
    "healings, their epoch": (f"{_LOOP}.epoch", 2, "before", _of("healed")),
    "healings are told": (f"{_LOOP}.done", 1, "after", _of("healed")),
    "the sampler's first pack, its second epoch": (f"{_LOOP}.epoch", 2, "before", _of("")),
    "an ancestor with another seed, its second epoch": (f"{_SEEDS}.epoch", 2, "before", _again(healed=False)),
    "what cutting it needs is being written": (_WEIGHTS, 1, "before", _named("-seed", "-units")),
    "an ancestor with another seed is kept": (f"{_SEEDS}.done", 1, "after", _again(healed=False)),
    "its cut is being written": (_WEIGHTS, 1, "before", _named("-cut-", "-seed")),
    "its cut is written": ("autopeft.confirming:_begin", 1, "after", lambda *args: args[-1].origin),
    "a healing with another seed, its epoch": (f"{_SEEDS}.epoch", 1, "before", _again(healed=True)),
    "a healing with another seed is being kept": (f"{_SEEDS}.done", 1, "before", _again(healed=True)),
    "the last healing with another seed is kept": (f"{_SEEDS}.done", 2, "after", _again(healed=True)),
    "test scores of other seeds are being kept": ("autopeft.scoring:keep_tests", 1, "before", _every),
    "test scores of other seeds are kept": ("autopeft.scoring:keep_tests", 1, "after", _every),
    "the end is being kept": ("autopeft.launch:keep_end", 1, "before", lambda _, ended: ended),
    "the end is kept": ("autopeft.launch:keep_end", 1, "after", lambda _, ended: ended),
    "weights that nobody needs are going": ("pathlib:Path.unlink", 2, "before", _by("keep_weights")),
    "the last files are being written": ("autopeft.run_folder:RunFolder.write_plots", 1, "before", _every),
}  # fmt: skip


def _beyond(high: float) -> Counts:
    """Calls of a search's loop with a rate beyond that."""
    return lambda loop, pack: any(loop._running[n].candidate.training["learning_rate"] > high for n in pack)


#: The same of one whose range of rates ends at 1e-3, where the best are.
WIDENING: dict[str, tuple[str, int, str, Counts]] = {
    "a range is widened": ("autopeft.searching.loop:_remark", 1, "after", lambda listeners, remarks: remarks),
    "the first pack beyond, its second epoch": (f"{_LOOP}.epoch", 2, "before", _beyond(1.01e-3)),
}

#: Children begin where its imports have ended: a process of one's own in a fraction of a second.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["autopeft.cli", "autopeft.launch", "autopeft.engine.report", "autopeft.searching.study", "plotly.graph_objects"]
)


def arm(point: str, kill: Callable[[], None], patched: pytest.MonkeyPatch) -> None:
    """Have `kill` called at the point."""
    everywhere = {**POINTS, **CONFIRMING}
    place, count, when, counts = (*everywhere[point], _every) if point in everywhere else {**PHASES, **WIDENING}[point]
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for inner in owners:
        owner = getattr(owner, inner)
    original, calls = getattr(owner, name), [0]

    def watched(*args: Any, **options: Any) -> Any:
        # Before the call: what it is asked about may be gone afterwards.
        calls[0] += (counted := bool(counts(*args, **options)))
        here = counted and calls[0] == count
        if here and when == "before":
            kill()
        result = original(*args, **options)
        if here and when == "after":
            kill()
        return result

    patched.setattr(owner, name, watched)


def ended(project: Path, out: Path, point: str, number: int, fields: Mapping[str, Any]) -> int:
    """Run a search in a process of its own that ends itself at the point: its status."""
    path = write_experiment(project, **fields)
    process = _FORKS.Process(target=_search, args=(str(path), str(out), point, int(number)))
    process.start()
    process.join(600)
    assert out.with_suffix(".reached").exists(), "the point was never reached"
    assert process.exitcode is not None
    return process.exitcode


def _search(path: str, out: str, point: str, number: int) -> None:
    """The command `search`, in a process that sends itself the signal at the point."""
    from autopeft.cli import main

    def kill() -> None:
        Path(out).with_suffix(".reached").touch()
        os.kill(os.getpid(), number)
        # A signal is noticed between two instructions of Python.
        time.sleep(5 if number == signal.SIGTERM else 0)

    # Tests that run in the background of a script have inherited that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["autopeft", "search", path, "--out", out, "--quiet"]
    with not_measured(), pytest.MonkeyPatch.context() as patched:
        arm(point, kill, patched)
        main()
