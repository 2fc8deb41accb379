from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tiny_server import Server

# Before anything imports huggingface_hub: no test asks a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Timing on a shared machine is not what the properties are about.
settings.register_profile("autopeft", deadline=None)
settings.load_profile("autopeft")


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
def server(tmp_path: Path, mlflow_database: Path) -> Iterator[Server]:
    """A running MLflow server over a database of its own."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(mlflow_database, folder / "mlflow.db")
    running = Server(folder / "mlflow.db")
    running.start()
    yield running
    running.kill()
