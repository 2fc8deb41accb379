from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from real_browser import chromium
from tiny_server import Server

# Before anything imports huggingface_hub: no test asks a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Timing on a shared machine is not what the properties are about.
# The same examples at every run: what fails here fails everywhere.
settings.register_profile("autopeft", deadline=None, derandomize=True)
settings.load_profile("autopeft")


#: They start Ray, servers and whole searches, and look at processes: on several workers, one after another.
MACHINE = {
    "test_cluster",
    "test_machine",
    "test_mlflow_pages",
    "test_pages",
    "test_ray_ended",
    "test_ray_token",
    "test_search",
    "test_signals",
    "test_stopped",
    "test_tracking",
    "test_tracking_faults",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, a file's tests stay on one worker, as fixtures are dear; so do those of the files above.

    Not `--dist loadgroup`: it writes groups into names of tests, where pytest 9.2 does not look for them.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.split("::", 1)[0]).stem
            return "machine" if file in MACHINE else file

    return ByFile(config, log)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tiny experiments."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def one_setup() -> Iterator[None]:
    """Every search of a file trains in the same way; see `not_measured`."""
    from tiny_project import not_measured

    with not_measured():
        yield


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory) -> Path:
    """An MLflow database without experiments of ours; making one takes seconds, copying it nothing."""
    from mlflow import MlflowClient

    from autopeft.tracking._mlflow_calls import our_calls

    path = tmp_path_factory.mktemp("mlflow template") / "mlflow.db"
    with our_calls():
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def browser() -> Iterator[Any]:
    """A real browser; the test is skipped where there is none."""
    with chromium() as found:
        yield found


@pytest.fixture
def server(tmp_path: Path, mlflow_database: Path) -> Iterator[Server]:
    """A running MLflow server over a database of its own."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(mlflow_database, folder / "mlflow.db")
    running = Server(folder / "mlflow.db")
    running.start()
    yield running
    running.kill()
