"""`autopeft ui`: MLflow's pages on the store of a search."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from autopeft.cli.verbs import say
from autopeft.errors import AutopeftError
from autopeft.launch import RUNS
from autopeft.result import SearchResult
from autopeft.tracking.mlflow_store import MlflowTracking, check_port, ui_command

#: Seconds that MLflow's processes may take to end by themselves.
_PATIENCE = 5.0


def run_ui(run: Path | None, port: int) -> None:
    """Serve the pages until a signal ends them."""
    run_dir = (run or RUNS / "any").absolute()
    tracking = SearchResult.open(run).experiment.tracking if run else MlflowTracking()
    if not isinstance(tracking, MlflowTracking):
        raise AutopeftError(f"{run}: this search was not tracked by MLflow (tracking: {tracking.name})")
    command, variables = ui_command(tracking.place(run_dir), port)
    check_port(port)
    say(f"MLflow on http://127.0.0.1:{port}, in some seconds (Ctrl-C ends it)")
    status = serve(command, away_from_here() | variables)
    if status > 0:
        raise AutopeftError(f"MLflow's pages ended with status {status}; its own words are above")


def away_from_here() -> dict[str, str]:
    """The environment for MLflow's pages in another folder than the current one, whose files may be a stranger's.

    Python (with `-m`) and uvicorn import from the current folder before all others.
    """
    artifacts = {"MLFLOW_ARTIFACTS_DESTINATION": str(Path("mlartifacts").absolute())}
    return {**artifacts, **os.environ, "PYTHONSAFEPATH": "1"}


def serve(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a server to its end, its status; whatever ends this function ends all processes that it has started."""
    with tempfile.TemporaryDirectory(prefix="autopeft-ui-", ignore_cleanup_errors=True) as elsewhere:
        # In a session of its own: at Ctrl-C its processes would otherwise die in any order, with a traceback each.
        server = subprocess.Popen(command, env=dict(environment), cwd=elsewhere, start_new_session=True)
        try:
            return server.wait()
        finally:
            _end(server.pid)


def _end(session: int) -> None:
    family = _family(session)
    with suppress(psutil.Error):
        psutil.Process(session).terminate()
    _, left = psutil.wait_procs(family, timeout=_PATIENCE)
    for process in {*left, *_family(session)}:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(left), timeout=_PATIENCE)


def _family(session: int) -> list[psutil.Process]:
    """The server's descendants, and whoever else is in its session: some have lost their parent."""
    found = set()
    with suppress(psutil.Error):
        server = psutil.Process(session)
        found |= {server, *server.children(recursive=True)}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == session:
                found.add(process)
    return list(found)
