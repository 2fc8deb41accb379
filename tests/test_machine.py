"""What a search asks of its machine is refused at once where it is too much; its temporary folders go afterwards."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_project import experiment, write_experiment

from autopeft.cli.planning import run_plan
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.launch import launch
from autopeft.progress import Silent
from autopeft.runners import _machine, _places, runner_from
from autopeft.runners._ray_surroundings import check_variables, environment

MANY = 10 * _machine.cpus() + 100


@pytest.mark.parametrize(
    ("runner", "said"),
    [
        (
            {"name": "ray", "cpus_per_worker": MANY},
            f"cpus_per_worker: {MANY} are asked for, and this machine has",
        ),
        ({"name": "ray", "workers": 1_000_000}, r"runner.workers: [\d,]+ with 1 CPU each .*at most \d+ workers"),
        ({"name": "ray", "gpus_per_worker": 500}, r"runner.gpus_per_worker: 500 are asked for, .* has \d+ GPUs"),
        ({"name": "in_process", "cpus": MANY}, f"runner.cpus: {MANY} are asked for, and this machine has"),
    ],
)
def test_more_than_the_machine_has_is_refused_before_anything_is_done(
    runner: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = write_experiment(tmp_path, runner=runner)
    with pytest.raises(AutopeftError, match=said):
        run_plan(Experiment.load(path), 10, True, False, True)
    with pytest.raises(AutopeftError, match=said):
        launch(Experiment.load(path), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 10**9},
        {"workers": 0},
        {"cpus_per_worker": float("nan")},
        {"cpus_per_worker": float("inf")},
        {"cpus_per_worker": 1e-9},
        {"cpus_per_worker": 1.5},
        {"gpus_per_worker": float("nan")},
        {"gpus_per_worker": 2.5},
        {"gpus_per_worker": -1},
        {"pack": 10**9},
        {"cache": float("inf")},
        {"cache": 1e300},
        {"cache": float("nan")},
    ],
)
def test_numbers_that_no_machine_has_are_one_line(options: dict[str, Any]) -> None:
    with pytest.raises(AutopeftError, match=f"^runner: {next(iter(options))}") as caught:
        runner_from({"name": "ray", **options})
    assert "\n" not in str(caught.value)


def test_two_workers_fit_on_any_machine(tmp_path: Path) -> None:
    for runner in ({"name": "ray", "workers": 2}, {"name": "ray", "cpus_per_worker": 0.5, "workers": 4}):
        Experiment.of(experiment(tmp_path, runner=runner), "test").runner.check()
    # Of a cluster nothing is known before it is asked.
    runner_from({"name": "ray", "workers": MANY, "cpus_per_worker": MANY, "address": "auto"}).check()


def test_the_affinity_counts() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinities")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert _machine.cpus() == 1
        with pytest.raises(AutopeftError, match=r"this machine has 1 CPU$"):
            runner_from({"name": "in_process", "cpus": 2}).check()
    finally:
        os.sched_setaffinity(0, before)


def test_what_the_environment_says_of_another_ray_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    before = dict(os.environ)
    with environment(own=True):
        assert "RAY_ADDRESS" not in os.environ
        assert (os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"])) == ("token", 64)
    assert dict(os.environ) == before
    with environment(own=False):
        assert os.environ["RAY_ADDRESS"] == "nowhere"
        assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.parametrize("name", ["RAY_memory_usage_threshold", "RAY_NUM_REDIS_GET_RETRIES"])
def test_a_variable_that_ray_does_not_take_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ends the process that reads it, the other is a traceback while Ray is imported; it may be already."""
    pytest.importorskip("ray")
    monkeypatch.setenv(name, "abc")
    with environment(own=True), pytest.raises(AutopeftError, match=f"what the environment says: see {name}"):
        check_variables()


def test_what_looks_at_variables_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray.py").write_text("open('ran', 'w')\nclass _raylet: ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_DEDUP_LOGS", "1")
    with environment(own=True):
        check_variables()
    assert not (tmp_path / "ran").exists()


# --- temporary folders -----------------------------------------------------------------------------------------------


def test_nobody_else_can_enter_a_private_folder_and_it_goes() -> None:
    old = os.umask(0)
    try:
        with _places.private_folder() as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert len(os.fsencode(folder)) <= 40
    finally:
        os.umask(old)
    assert not folder.exists()


@pytest.mark.parametrize("asked", ["/" + 130 * "x", "/proc/nowhere", "relative"])
def test_a_temporary_folder_that_does_not_do_is_passed_over(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", asked)
    with _places.private_folder() as folder:
        assert folder.parent != Path(asked)


def test_no_place_for_temporary_files_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_places, "_places", lambda: [tmp_path / "none"])
    said = r"no place for temporary files .*No such file.* set TMPDIR"
    with pytest.raises(AutopeftError, match=said) as caught, _places.private_folder():
        pass
    assert "\n" not in str(caught.value)


SESSION = """
import os, signal, subprocess, sys
from autopeft.runners._places import private_folder
with private_folder() as folder:
    # An orphan in the making: a session of its own, and a file of the folder open.
    log = open(folder / "log", "wb")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], stdout=log, start_new_session=True)
    print(folder, child.pid, flush=True)
    if sys.argv[1] == "alone":
        # Nobody watches: its watcher is killed too.
        for process in __import__("psutil").Process().children():
            if "_reaper" in " ".join(process.cmdline()):
                process.kill()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_session(how: str) -> tuple[Path, int]:
    process = subprocess.Popen([sys.executable, "-c", SESSION, how], stdout=subprocess.PIPE, text=True)
    said, _ = process.communicate(timeout=60)
    folder, pid = said.split()
    assert process.returncode == -signal.SIGKILL
    return Path(folder), int(pid)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_a_killed_session_leaves_is_taken_away() -> None:
    folder, orphan = killed_session("watched")
    deadline = time.monotonic() + 60
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()
    assert gone(orphan)


def test_the_next_session_takes_it_away_where_nobody_watched() -> None:
    folder, orphan = killed_session("alone")
    assert folder.exists()
    assert not gone(orphan)
    with _places.private_folder() as other:
        assert not folder.exists()
        assert gone(orphan)
        with _places.private_folder():
            assert other.exists(), "a folder in use was taken for one that is left"
