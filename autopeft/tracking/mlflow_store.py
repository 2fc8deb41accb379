"""MLflow: a parent run a search, a child run a candidate; SQLite beside the run folders, or any server."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from autopeft.errors import AutopeftError
from autopeft.tracking import _mlflow_values as values
from autopeft.tracking._background import Background
from autopeft.tracking._base import SearchInfo, Tracking
from autopeft.tracking._mlflow_calls import failures, one_line, our_calls
from autopeft.tracking._mlflow_tracker import MlflowTracker
from autopeft.tracking._mlflow_uri import check_place, is_server, resolve, shown, sqlite_path


class MlflowTracking(Tracking):
    """Where to: `uri`, else the environment's MLFLOW_TRACKING_URI, else `mlflow.db` beside the run folder.

    `open` takes seconds when it makes a new database; it may run in a thread of its own.
    """

    name: ClassVar[str] = "mlflow"
    description: ClassVar[str] = "MLflow: mlflow.db beside the run folders, or any MLflow server or database by URI"

    uri: str | None = Field(None, min_length=1)
    experiment: str = Field("autopeft", min_length=1, max_length=500)

    def open(self, search: SearchInfo) -> Background[MlflowTracker]:
        """The search's parent run, made now or found again by `search_id`, ready for children."""
        uri, source = resolve(self.uri, search.run_dir)
        check_place(uri, source)
        try:
            with our_calls():
                return Background(self._connect(uri, search))
        except failures() as error:
            raise AutopeftError(f"tracking: MLflow at {shown(uri)} can't be used ({one_line(error)})") from error

    def store(self, run_dir: Path) -> str:
        """The URI of the store for a search in `run_dir`."""
        return resolve(self.uri, run_dir)[0]

    def _connect(self, uri: str, search: SearchInfo) -> MlflowTracker:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiment_id = _experiment(client, self.experiment, _artifacts(uri, search.run_dir))
        parent_id = _parent(client, experiment_id, search)
        hint = f"{shown(uri)}/#/experiments/{experiment_id}/runs/{parent_id}"
        if not is_server(uri):
            hint = shlex.join(["mlflow", "ui", "--backend-store-uri", shown(uri)])
        return MlflowTracker(client, uri, hint, experiment_id, parent_id)


def ui_command(uri: str, port: int = 5000) -> list[str]:
    """The command that serves MLflow's pages for a database, on this machine only: http://127.0.0.1:<port>.

    `AutopeftError` for a server's URI: it has its pages already.
    """
    if is_server(uri):
        raise AutopeftError(f"tracking: {shown(uri)} is a server already; open it in a browser")
    place = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", "mlflow", "ui", *place]


def _artifacts(uri: str, run_dir: Path) -> str | None:
    """Where a new experiment's files go: a server decides itself, a database has them beside it."""
    if is_server(uri) or uri.startswith("databricks"):
        return None
    beside = sqlite_path(uri) or run_dir.absolute()
    return (beside.parent / "mlartifacts").as_uri()


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another search was quicker
    if found.lifecycle_stage != "active":
        raise AutopeftError(
            f"tracking: experiment: '{name}' is deleted in MLflow; restore it there, or give another name"
        )
    return found.experiment_id


def _parent(client: Any, experiment_id: str, search: SearchInfo) -> str:
    search_id = search.search_id.replace("'", "_")
    where = f"tags.`{values.SEARCH_ID}` = '{search_id}' AND tags.`{values.KIND}` = 'search'"
    found = client.search_runs([experiment_id], where, max_results=1, order_by=["attributes.start_time ASC"])
    tags = {k: values.cut(v) for k, v in search.tags.items()}
    if found:
        run = found[0]
        client.update_run(run.info.run_id, status="RUNNING")
    else:
        own = {values.SEARCH_ID: search_id, values.KIND: "search", "mlflow.source.name": "autopeft"}
        run = client.create_run(experiment_id, tags={**tags, **own}, run_name=search.name)
    _log_parameters(client, run, search, tags if found else {})
    if search.experiment_yaml is not None and search.experiment_yaml.is_file():
        text = search.experiment_yaml.read_text(encoding="utf-8", errors="replace")
        client.log_text(run.info.run_id, text, "experiment.yaml")
    return run.info.run_id


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
