"""MLflow: a parent run a search, a child run a candidate; SQLite in the run folder, or any server."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator

from autopeft.doors import door, read_text
from autopeft.errors import AutopeftError
from autopeft.plugins import command_line
from autopeft.secrets import hidden, spoken_of
from autopeft.tracking import _mlflow_values as values
from autopeft.tracking._background import Background
from autopeft.tracking._base import SearchInfo, Tracking
from autopeft.tracking._mlflow_calls import one_line, our_calls
from autopeft.tracking._mlflow_check import check_place
from autopeft.tracking._mlflow_inputs import inputs
from autopeft.tracking._mlflow_moved import relocate
from autopeft.tracking._mlflow_new import one_at_a_time
from autopeft.tracking._mlflow_pages import EXPERIMENT_TAGS, columns_first, list_of, page_of, parent_run
from autopeft.tracking._mlflow_parent import Parent, upload, upload_folder
from autopeft.tracking._mlflow_tracker import MlflowTracker
from autopeft.tracking._mlflow_uri import Place, bounded, check_for_a_file, given, holds, in_file, place_of, resolve

__all__ = [
    "MlflowTracking", "Place", "bounded", "check_port", "find", "given", "holds", "in_file", "list_of", "our_calls",
    "page_of", "place_of", "relocate", "resolve", "ui_command", "upload_folder",
]  # fmt: skip


class MlflowTracking(Tracking):
    """Where to: `uri`, else the environment's MLFLOW_TRACKING_URI, else `mlflow.db` in the run folder.

    `uri` is written down, so it may hold no user, password or token. `open` takes seconds when it makes a new database;
    it may run in a thread of its own.
    """

    name: ClassVar[str] = "mlflow"
    description: ClassVar[str] = "MLflow: mlflow.db in the run folder, or any MLflow server or database by URI"

    uri: str | None = Field(None, min_length=1)
    experiment: str = Field("autopeft", min_length=1, max_length=500)
    system_metrics: bool = Field(True, description="use of CPUs, memory, disk, network and GPUs, every 10 s")

    @field_validator("uri", mode="before")
    @classmethod
    def _holds_no_secret(cls, value: Any) -> Any:
        # An error of pydantic's would repeat the value.
        if isinstance(value, str) and value:
            check_for_a_file(value)
        return value

    def open(self, search: SearchInfo) -> Background[MlflowTracker]:
        """The search's parent run, made now or found again by `search_id`, ready for children."""
        place = self.place(search.run_dir, search.search_id)
        check_place(place)
        try:
            with one_at_a_time(place), our_calls(place):
                return Background(self._connect(place, search))
        except AutopeftError:
            raise
        except Exception as error:
            raise AutopeftError(
                f"tracking: MLflow at {place.shown} can't be used ({_explained(error)}); "
                "set tracking.uri to another place, or tracking: none"
            ) from (None if spoken_of(error) else error)

    def place(self, run_dir: Path, search_id: str = "") -> Place:
        """The store for a search in `run_dir`."""
        return resolve(self.uri, run_dir, search_id)

    def _connect(self, place: Place, search: SearchInfo) -> MlflowTracker:
        from mlflow import MlflowClient

        relocate(place)
        client = MlflowClient(tracking_uri=place.uri)
        experiment_id = _experiment(client, self.experiment, _artifacts(place, search.run_dir))
        parent = Parent(client, place, experiment_id, _parent(client, place, experiment_id, search))
        columns_first(client, experiment_id, search.objectives)
        hint = page_of(place.shown, experiment_id, parent.run_id)
        if not place.is_server:
            # A database's whole address may hold a password; the command takes it from the environment.
            hint = command_line("ui", search.run_dir)
        naming = values.Naming.of(search.objectives, search.params, search.run_dir)
        ended = None if search.period is None else round(search.period[1] * 1000)
        return MlflowTracker(parent, hint, naming, self.system_metrics, ended)


def find(place: Place, experiment: str, search_id: str) -> Any | None:
    """The run of a search in a store, MLflow's entity; None where it, or the store, is not there.

    `AutopeftError` when the store can't be used.
    """
    from mlflow import MlflowClient

    if place.file is not None and not place.file.is_file():
        return None
    check_place(place)
    with door(f"tracking: MLflow at {place.shown}", "can't be used"), our_calls(place):
        relocate(place)
        client = MlflowClient(tracking_uri=place.uri)
        known = client.get_experiment_by_name(experiment)
        return None if known is None else parent_run(client, known.experiment_id, search_id)


def ui_command(place: Place, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """The command, and variables for it, that serve MLflow's pages for a database, on this machine only.

    The address is a variable, since everyone on the machine may read a command's arguments. `AutopeftError` for a
    server's, which has its pages already, and for a database that can't be used.
    """
    if place.is_server:
        raise AutopeftError(f"tracking: {place.shown} is a server already; open it in a browser")
    if place.file is not None and not place.file.is_file():
        raise AutopeftError(f"tracking: there is no database {place.file} yet; a search makes it")
    check_place(place)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), *_OURS]
    return command, {"MLFLOW_BACKEND_STORE_URI": place.uri}


#: One worker, as there is one user, and more begin later and take their memory each; no line for each request.
_OURS = ("--workers", "1", "--uvicorn-opts=--log-level=warning")


def check_port(port: int) -> None:
    """`AutopeftError` when nothing can be served there on this machine."""
    with door(f"port {port}", "can't be used", "give another one with --port"), socket.socket() as served:
        served.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        served.bind(("127.0.0.1", port))


def _explained(error: Exception) -> str:
    """The error in one line; what MLflow says of a database's version is the wrong way round for a newer one."""
    text = one_line(error)
    if getattr(error, "error_code", None) in ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"):
        return f"{text}; see MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD and MLFLOW_TRACKING_TOKEN"
    return text


def _artifacts(place: Place, run_dir: Path) -> str | None:
    """Where a new experiment's files go: a server decides itself, a database has them beside it."""
    if place.is_server or place.uri.startswith("databricks"):
        return None
    beside = place.file or run_dir.absolute()
    return (beside.parent / "mlartifacts").as_uri()


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts, tags=EXPERIMENT_TAGS)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another search was quicker
    if found.lifecycle_stage == "deleted":
        raise AutopeftError(
            f"tracking: experiment: '{name}' is deleted in MLflow; restore it there, or give another name"
        )
    _check_moved(name, found.artifact_location, artifacts)
    return found.experiment_id


def _check_moved(name: str, location: str, expected: str | None) -> None:
    """MLflow keeps absolute paths: of a folder that was moved it would make the old one anew, for new files only."""
    if expected is None or location == expected or not location.startswith("file:"):
        return
    folder = Path(unquote(urlsplit(location).path))
    if not folder.is_dir() and not folder.parent.is_dir():
        raise AutopeftError(
            f"tracking: experiment: files of '{name}' are in {folder}, which is gone; "
            "move it back, or give another name (its runs stay where they are)"
        )


def _parent(client: Any, place: Place, experiment_id: str, search: SearchInfo) -> str:
    from mlflow.entities import RunInputs

    run = parent_run(client, experiment_id, search.search_id)
    tags = {k: values.cut(v) for k, v in search.tags.items()}
    known = run is not None
    if run is not None:
        client.update_run(run.info.run_id, status="RUNNING")
    else:
        own = {values.SEARCH_ID: search.search_id, values.KIND: "search", "mlflow.source.name": "autopeft"}
        began = None if search.period is None else round(search.period[0] * 1000)
        run = client.create_run(experiment_id, began, {**tags, **own}, run_name=search.name)
    _log_parameters(client, run, search, tags if known else {})
    there: RunInputs | None = run.inputs
    if search.inputs and not (there and there.dataset_inputs):
        client.log_inputs(run.info.run_id, datasets=inputs(search.inputs))
    if search.experiment_yaml is not None and search.experiment_yaml.is_file():
        upload(place, run.info.artifact_uri, "experiment.yaml", hidden(read_text(search.experiment_yaml)))
    return str(run.info.run_id)


def _log_parameters(client: Any, run: Any, search: SearchInfo, tags: Mapping[str, str]) -> None:
    """The search's parameters. MLflow's can't be changed, so what a resume changed becomes a tag."""
    from mlflow.entities import RunTag

    objectives = ", ".join(f"{direction} {metric}" for metric, direction in search.objectives)
    given = {**search.params, **({"objectives": objectives} if objectives else {})}
    known = run.data.params
    for _, some in values.batches(
        [], values.params({k: v for k, v in given.items() if values.safe_name(k) not in known})
    ):
        client.log_batch(run.info.run_id, params=some)
    changed = _changed(values.param_texts(given), known, run.data.tags)
    entities = [RunTag(k, v) for k, v in {**tags, **changed}.items()]
    for start in range(0, len(entities), 100):
        client.log_batch(run.info.run_id, tags=entities[start : start + 100])


def _changed(texts: Mapping[str, str], known: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """`autopeft.changed.<parameter>` tags for what is not as MLflow has it."""
    named = {k: f"autopeft.changed.{k}"[:250] for k in texts if k in known}
    return {tag: values.cut(texts[k]) for k, tag in named.items() if tags.get(tag, known[k]) != texts[k]}
