"""An export as a version of a registered model in the MLflow of its search."""

from __future__ import annotations

import shlex
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from autopeft.browsing.names import check_name
from autopeft.browsing.replay import id_of, show, tracking_of
from autopeft.doors import door
from autopeft.exporting._record import Record
from autopeft.hybrid import Hybrid
from autopeft.markup import markdown
from autopeft.result import SearchResult
from autopeft.tracking.mlflow_store import Place, our_calls, relocate, upload_folder
from autopeft.wording import number

#: What a model is loaded with.
_PACKAGES = ("autopeft", "mlflow", "torch", "transformers", "peft", "safetensors", "pandas")


@dataclass(frozen=True)
class Registered:
    """A version of a model in a registry."""

    name: str
    version: str
    place: Place

    @property
    def uri(self) -> str:
        """What MLflow calls it."""
        return f"models:/{self.name}/{self.version}"

    @property
    def serve(self) -> str:
        """The command that serves it, where MLFLOW_TRACKING_URI names its place."""
        return f"mlflow models serve -m {shlex.quote(self.uri)} --env-manager local"


def register(result: SearchResult, folder: Path, name: str) -> Registered:
    """Make an export a new version of the model `name`, with signature and example, under its search's run.

    `AutopeftError` for an export that makes no predictions of texts, and for a store that does not take it.
    """
    check_name(name)
    from autopeft.exporting.served import Served

    record, tracking = Record.read(folder), tracking_of(result)
    served = Served(folder)
    place, shown = tracking.place(result.run_dir.absolute(), id_of(result)), show(result, tracking)
    with (
        door(f"tracking: MLflow at {place.shown}", f"does not take {name}", "the export itself is written"),
        our_calls(place),
        tempfile.TemporaryDirectory() as temporary,
    ):
        from mlflow import MlflowClient

        relocate(place)
        client, saved = MlflowClient(tracking_uri=place.uri), Path(temporary) / "model"
        _save(served, folder, saved)
        run, inside = client.get_run(shown.run_id), f"exports/{record.key}"
        upload_folder(place, run.info.artifact_uri, saved, inside)
        made = _version(client, name, f"{run.info.artifact_uri}/{inside}", run.info.run_id, record)
        found = Registered(name, str(made.version), place)
        client.update_model_version(name, found.version, _described(record, found.serve))
    return found


def _save(served: Any, folder: Path, to: Path) -> None:
    """The export as MLflow's `python_function`: a copy of its files, and the name of the module that loads them."""
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    example = pd.DataFrame([{column: f"An example of a {column}." for column in served.columns}])
    mlflow.pyfunc.save_model(
        str(to),
        loader_module="autopeft.exporting.served",
        data_path=str(folder),
        signature=infer_signature(example, served.predict(example)),
        input_example=example,
        pip_requirements=list(_requirements()),
    )


def _requirements() -> list[str]:
    found = []
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{package}=={version(package)}")
    return found


def _version(client: Any, name: str, source: str, run_id: str, record: Record) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"key": record.key, "peft_type": record.peft_type, "base_model": record.model.name, **_scores(record)}
    return client.create_model_version(name, source, run_id, tags=tags)


def _scores(record: Record) -> dict[str, str]:
    return {k: number(v) for k, v in record.metrics.items() if k.startswith("test_")}


def _described(record: Record, serve: str) -> str:
    """What pages say of a version first."""
    said = "".join(f", {name} {value}" for name, value in _scores(record).items())
    hybrid = Hybrid.from_json(record.searched or record.hybrid).describe()
    words = f" of an autopeft search on {record.model.name}{said}: {hybrid}"
    data, number = f"Data: {record.splits}", "" if record.number is None else f"#{record.number} "
    return f"Candidate {number}`{record.key}`{markdown(words)}\n\n{markdown(data)}\n\n```bash\n{serve}\n```"
