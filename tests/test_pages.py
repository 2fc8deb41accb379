"""`autopeft ui` ends with all that it has started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from autopeft.cli.pages import serve

#: A server that has a child with children, of which one leaves and one does not listen.
SERVER = """
import signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(100)"
subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE).stdout.readline()
left = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {deaf!r}])"
subprocess.run([sys.executable, "-c", left])
open(sys.argv[1], "w").close()
time.sleep(100)
"""


def session_of(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_whatever_ends_it_ends_all_that_it_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    started: list[int] = []
    wait = subprocess.Popen.wait

    def interrupted(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        deadline = time.monotonic() + 30
        while not (tmp_path / "up").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        started.append(self.pid)
        assert len(session_of(self.pid)) == 3
        monkeypatch.setattr(subprocess.Popen, "wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        serve([sys.executable, "-c", SERVER, str(tmp_path / "up")], dict(os.environ))
    assert session_of(started[0]) == []
    assert [p.name for p in tmp_path.iterdir()] == ["up"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_real_pages(number: int, status: int, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "TMPDIR": str(tmp_path)}
    code = "import sys; from mlflow import MlflowClient; MlflowClient(tracking_uri=sys.argv[1]).search_experiments()"
    subprocess.run([sys.executable, "-c", code, environment["MLFLOW_TRACKING_URI"]], check=True, capture_output=True)
    command = [sys.executable, "-m", "autopeft", "ui", "--port", str(port)]
    pages = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.2)
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                break
    family = psutil.Process(pages.pid).children(recursive=True)
    assert family
    pages.send_signal(number)
    _, said = pages.communicate(timeout=60)
    assert pages.returncode == status
    assert said.splitlines()[-1].endswith("MLflow's pages are closed")
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not list(tmp_path.glob("autopeft-*"))
