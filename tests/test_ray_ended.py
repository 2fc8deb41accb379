"""A search on Ray that is ended from outside, in whatever way: a line, the right status, nothing left; it goes on."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_search import comparable, finished_in, run
from tiny_project import experiment, not_measured, write_experiment

from autopeft.experiment import Experiment
from autopeft.launch import launch
from autopeft.progress import Silent
from autopeft.result import SearchResult
from autopeft.runners._places import _PREFIX, _places
from autopeft.searching.study import Proposal

pytestmark = pytest.mark.slow

#: Random proposals do not depend on scores, which in the last digit depend on what was measured.
CHANGES: dict[str, Any] = {
    "trials": 16,
    "sampler": {"name": "random", "seed": 3},
    "stopping": "none",
    "training": {"epochs": 3, "batch_size": 4, "max_length": 16, "precision": "fp32"},
    "runner": {"name": "ray", "workers": 1, "pack": 2},
}
MIDDLE, START = "in the middle", "at the start"
KILLED = (
    r"autopeft: error: runner: Ray's process '{}' was killed (out of memory?); start the same command again, it goes "
)


class Search:
    """A search as a command, with MLflow, and what belongs to it."""

    def __init__(self, folder: Path) -> None:
        self.out, self.database = folder / "runs" / "run", folder / "runs" / "mlflow.db"
        self._command = [sys.executable, "-m", "autopeft", "search", "--out", str(self.out), "--quiet"]
        tracking = {"name": "mlflow", "uri": f"sqlite:///{self.database}"}
        self.database.parent.mkdir()
        self._command.append(str(write_experiment(folder, tracking=tracking, **CHANGES)))
        self.processes: list[psutil.Process] = []

    def start(self) -> None:
        inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.main = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        signal.signal(signal.SIGINT, inherited)

    def find(self, name: str) -> psutil.Process:
        """The driver, or a process of Ray's by its name; waits for it."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            main = psutil.Process(self.main.pid)
            self.processes = [main, *main.children(recursive=True)]
            found = [p for p in self.processes if name == "driver" or p.name() == name]
            if found:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"no process {name}")

    def wait_for(self, candidates: int) -> None:
        deadline = time.monotonic() + 240
        while finished_in(self.out) < candidates:
            assert time.monotonic() < deadline, "it does not get so far"
            time.sleep(0.02)

    def end(self) -> tuple[int, str]:
        """Its status and what it said, within far less than Ray's own minute."""
        _, said = self.main.communicate(timeout=50)
        return self.main.returncode, said

    def status(self) -> list[str]:
        """MLflow's, of the search."""
        with closing(sqlite3.connect(self.database)) as connection:
            found = connection.execute(
                "SELECT status FROM runs WHERE name NOT LIKE '%#%' AND lifecycle_stage = 'active'"
            )
            return [status for (status,) in found]

    def left(self, before: set[Path]) -> tuple[list[psutil.Process], set[Path]]:
        """Processes and temporary folders that are still there, after a moment."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            alive = [p for p in self.processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
            folders = temporary() - before
            if not alive and not folders:
                break
            time.sleep(0.1)
        return alive, folders


def temporary() -> set[Path]:
    """Folders of sessions of this moment's processes that are children of this test, or nobody's."""
    found = {folder for place in _places() for folder in place.glob(f"{_PREFIX}*")}
    return {folder for folder in found if not _foreign(folder)}


def _foreign(folder: Path) -> bool:
    """Of another living process, such as tests that run beside these."""
    try:
        return psutil.pid_exists(int((folder / "owner").read_text().split()[0]))
    except (OSError, ValueError, IndexError):
        return False


@pytest.mark.parametrize(
    ("target", "number", "when", "status", "said", "tracked"),
    [
        ("driver", signal.SIGTERM, MIDDLE, 143, "autopeft: ended by SIGTERM; ", "KILLED"),
        ("raylet", signal.SIGKILL, MIDDLE, 2, KILLED.format("raylet"), "FAILED"),
        ("gcs_server", signal.SIGKILL, MIDDLE, 2, KILLED.format("gcs_server"), "FAILED"),
        ("driver", signal.SIGKILL, MIDDLE, -9, "", "RUNNING"),
        ("driver", signal.SIGHUP, START, 129, "autopeft: ended by SIGHUP; ", "KILLED"),
        ("raylet", signal.SIGKILL, START, 2, KILLED.format("raylet"), "FAILED"),
        ("gcs_server", signal.SIGKILL, START, 2, KILLED.format("gcs_server"), "FAILED"),
    ],
)
def test_it_leaves_a_line_nothing_else_and_goes_on(
    target: str, number: int, when: str, status: int, said: str, tracked: str, tmp_path: Path
) -> None:
    before, search = temporary(), Search(tmp_path)
    search.start()
    if when == MIDDLE:
        search.wait_for(3)
    else:
        search.find("gcs_server")
        search.find("raylet")
    search.find(target).send_signal(number)
    ended, told = search.end()
    assert (ended, told[: len(said)]) == (status, said), told
    assert told.count("\n") == (1 if said else 0), told
    assert search.left(before) == ([], set())
    # At the start MLflow may not have heard of it yet.
    assert search.status() in ([tracked], [] if when == START else [tracked])
    done = finished_in(search.out)
    assert done < CHANGES["trials"]
    search.start()
    assert search.main.wait(400) == 0
    after = SearchResult.open(search.out).evaluations
    assert [e.number for e in after] == list(range(CHANGES["trials"]))
    assert len({e.key for e in after}) == len(after)
    assert search.status() == ["FINISHED"]


def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    before, search = temporary(), Search(tmp_path)
    search.start()
    search.wait_for(3)
    worker = next(p for p in psutil.Process(search.find("driver").pid).children(True) if "PackTrain" in p.name())
    worker.kill()
    _, told = search.main.communicate(timeout=400)
    assert (search.main.returncode, told) == (0, "")
    assert all(e.status == "done" for e in SearchResult.open(search.out).evaluations)
    assert search.left(before) == ([], set())


class Impatient(Silent):
    """Presses Ctrl-C when so many epochs of the search have ended."""

    def __init__(self, epochs: int) -> None:
        self._left = epochs

    def epoch(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGINT)


@not_measured()
def test_ended_in_a_pack_it_proposes_as_if_it_had_not_been(tmp_path: Path) -> None:
    """With one worker, its proposals depend on scores, and some candidates are stopped."""
    changes = {"trials": 10, "sampler": {"name": "known_cost", "startup": 4}, "stopping": "halving"}
    changes |= {"training": CHANGES["training"], "tracking": "none"}
    whole = run(tmp_path, "whole", **changes, runner={"name": "in_process", "cpus": 1, "pack": 2})
    fields = experiment(tmp_path, **changes, runner={"name": "ray", "workers": 1, "pack": 2})
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for epochs in (7, 8):
            with pytest.raises(KeyboardInterrupt):
                launch(Experiment.of(fields, "test"), tmp_path / "ended", Impatient(epochs))
    finally:
        signal.signal(signal.SIGINT, before)
    ended = launch(Experiment.of(fields, "test"), tmp_path / "ended", Silent())
    assert comparable(ended.evaluations) == comparable(whole.evaluations)
