"""`autopeft ui`: MLflow's pages on one search, or on all of a folder side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from autopeft.browsing.replay import elsewhere, gathered, id_of, show, tracking_of
from autopeft.browsing.runs import folders_in
from autopeft.cli.verbs import say
from autopeft.errors import AutopeftError
from autopeft.launch import RUNS
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.tracking.mlflow_store import (
    Place,
    check_port,
    find,
    in_file,
    list_of,
    page_of,
    resolve,
    ui_command,
)

#: Seconds that MLflow's processes may take to end by themselves, and to answer for the first time.
_PATIENCE, _BEGINNING = 5.0, 180.0
#: The address of a page on a server.
Page = Callable[[str], str]


def run_ui(folder: Path | None, port: int, open_it: bool = True) -> None:
    """Serve the pages until a signal ends them; of a server, which has its own, say the address."""
    place, page = _of_a_search(folder) if folder and _is_search(folder) else _of_a_folder(folder)
    if place.is_server:
        say(f"{place.shown} is an MLflow server, which has these pages already: {page(place.shown)}")
        if place.source == "uri":
            say("a run folder names it; it is asked for the search's own page if MLFLOW_TRACKING_URI names it too")
        else:
            _opened(page(place.shown), open_it)
        return
    command, variables = ui_command(place, port)
    check_port(port)
    say("MLflow's pages begin, in some seconds ...")
    status = serve(command, away_from_here() | variables, lambda server: _ready(server, port, page, open_it))
    if status > 0:
        raise AutopeftError(f"MLflow's pages ended with status {status}; its own words are above")


def _is_search(folder: Path) -> bool:
    return (folder / "experiment.yaml").is_file()


def _of_a_search(run: Path) -> tuple[Place, Page]:
    """The search's own page, in its store, which is brought in step with the run folder first."""
    result = SearchResult.open(run)
    if (named := elsewhere(result)) is not None and named.is_server:
        return named, _front_page
    tracking, search_id = tracking_of(result), id_of(result)
    place = tracking.place(result.run_dir.absolute(), search_id)
    if place.is_server:
        known = find(place, tracking.experiment, search_id)
        if known is None:
            raise AutopeftError(
                f"{run}: {place.shown} is an MLflow server, and does not know this search; the command that began it "
                "sends what is missing, and 'autopeft ui' on the folder of runs needs no server"
            )
        return place, lambda server: page_of(server, known.info.experiment_id, known.info.run_id)
    say("bringing MLflow in step with the run folder ...")
    shown = show(result, tracking)
    return place, lambda server: page_of(server, shown.experiment_id, shown.run_id)


def _of_a_folder(folder: Path | None) -> tuple[Place, Page]:
    """The list of all searches in a folder; without one, of `runs`, or what MLFLOW_TRACKING_URI names."""
    if folder is None and (given := resolve(None, RUNS / "any")).source != "default":
        return given, _front_page
    runs = folder or RUNS
    found = folders_in(runs) if runs.is_dir() else []
    if not found and (runs / "mlflow.db").is_file():
        return in_file(runs / "mlflow.db"), _front_page
    if not found:
        RunFolder.existing(runs)
    say(f"bringing {len(found):,} searches together in {runs / 'mlflow.db'} ...")
    database, shown, left_out = gathered(runs, found)
    for why in left_out:
        say(f"left out: {why}")
    if shown is None:
        raise AutopeftError(f"{runs}: none of its {len(found):,} searches can be shown; the reasons are above")
    return in_file(database), lambda server: list_of(server, shown.experiment_id)


def _front_page(server: str) -> str:
    return server


def _ready(server: subprocess.Popen[bytes], port: int, page: Page, open_it: bool) -> None:
    """Wait until the server answers, and say where; nothing when it ends before."""
    address, begun = f"http://127.0.0.1:{port}", time.monotonic()
    while server.poll() is None and time.monotonic() < begun + _BEGINNING:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=_PATIENCE):
            say(f"MLflow on {page(address)} (Ctrl-C ends it)")
            _opened(page(address), open_it)
            return
        time.sleep(0.2)


def _opened(page: str, asked: bool) -> None:
    """Show the page in a browser, where somebody sits before one: a browser of text would take the terminal."""
    windows = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if asked and windows and sys.stdout.isatty():
        with suppress(webbrowser.Error):
            webbrowser.open(page)


def away_from_here() -> dict[str, str]:
    """The environment for MLflow's pages in another folder than the current one, whose files may be a stranger's.

    Python (with `-m`) and uvicorn import from the current folder before all others.
    """
    artifacts = {"MLFLOW_ARTIFACTS_DESTINATION": str(Path("mlartifacts").absolute())}
    # Its words at the start would hide ours.
    quiet = {"MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"}
    return {**artifacts, **quiet, **os.environ, "PYTHONSAFEPATH": "1"}


def serve(
    command: Sequence[str],
    environment: Mapping[str, str],
    begun: Callable[[subprocess.Popen[bytes]], None] = lambda server: None,
) -> int:
    """Run a server to its end, its status; whatever ends this function ends all processes that it has started.

    `begun` is called with its process when that is there.
    """
    with tempfile.TemporaryDirectory(prefix="autopeft-ui-", ignore_cleanup_errors=True) as elsewhere:
        # In a session of its own: at Ctrl-C its processes would otherwise die in any order, with a traceback each.
        server = subprocess.Popen(command, env=dict(environment), cwd=elsewhere, start_new_session=True)
        try:
            begun(server)
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
