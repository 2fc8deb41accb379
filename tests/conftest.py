from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

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
