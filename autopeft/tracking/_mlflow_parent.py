"""The run of a search in a store, and how its children are written: in batches that every store takes."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft.errors import AutopeftError
from autopeft.tracking import _mlflow_values as values
from autopeft.tracking._mlflow_calls import one_line, refused
from autopeft.tracking._mlflow_uri import FOLDER, Place


@dataclass
class Parent:
    """A search's run; `client` is an `MlflowClient`, so that MLflow's global state is left alone."""

    client: Any
    place: Place
    experiment_id: str
    run_id: str

    def log(self, run_id: str, metrics: Sequence[Any], params: Sequence[Any] = ()) -> None:
        """In batches; one that the store does not take is left out with a warning, as it would be refused again."""
        for some_metrics, some_params in values.batches(list(metrics), list(params)):
            try:
                self.client.log_batch(run_id, some_metrics, some_params)
            except Exception as error:
                if not refused(error):
                    raise
                warnings.warn(f"tracking: MLflow did not take some values ({one_line(error)})", stacklevel=2)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the search's own run."""
        from mlflow.entities import RunTag

        entities = [RunTag(values.safe_name(k), values.cut(v)) for k, v in tags.items()]
        for start in range(0, len(entities), values.TAGS_A_BATCH):
            self.client.log_batch(self.run_id, tags=entities[start : start + values.TAGS_A_BATCH])

    def upload(self, artifacts: str, name: str, text: str) -> None:
        """Write a file of a run, whose files are at that address."""
        upload(self.place, artifacts, name, text)

    def keep(self, files: Sequence[Path]) -> None:
        """Copy files to those of the search's own run; those that are not there are left out."""
        if there := [path for path in files if path.is_file()]:
            repository = _files(self.place, self.client.get_run(self.run_id).info.artifact_uri)
            for path in there:
                repository.log_artifact(str(path))


def upload(place: Place, artifacts: str, name: str, text: str) -> None:
    """Write a file of a run, whose files are at that address."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        _files(place, artifacts).log_artifact(str(path))


def upload_folder(place: Place, artifacts: str, folder: Path, inside: str) -> None:
    """Copy what a folder holds to a run's files."""
    _files(place, artifacts, inside).log_artifacts(str(folder), inside)


def _files(place: Place, artifacts: str, inside: str = "") -> Any:
    """Where a run's files go. The client would ask for the run, and remembers where its files were before a move.

    `inside` is a folder there that is written to. `AutopeftError` where the place does not allow it.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if place.bounded and place.file is not None:
        _check_beside(place.file, artifacts, inside)
    return get_artifact_repository(artifacts, tracking_uri=place.uri)


def _check_beside(database: Path, artifacts: str, inside: str) -> None:
    """`AutopeftError` for an address that is not below the folder beside the database, or leads out of it by links."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    beside = database.parent.resolve() / FOLDER
    folder = Path(local_file_uri_to_path(artifacts)) / inside if artifacts.startswith("file:") else None
    if folder is None or not folder.resolve().is_relative_to(beside):
        raise AutopeftError(
            f"tracking: MLflow's database {database} has files in {artifacts[:200]!r}, not in {FOLDER} beside it, and "
            "nothing is written there; if it is yours, name the database in MLFLOW_TRACKING_URI"
        )
    # A file is put in place of a link, but a folder's are copied through those that stand there.
    for place, folders, files in os.walk(folder) if inside else ():
        if links := [name for name in (*folders, *files) if Path(place, name).is_symlink()]:
            raise AutopeftError(
                f"tracking: {Path(place, links[0])} is a link, and nothing is written through links in a run folder; "
                "take it away"
            )


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000
