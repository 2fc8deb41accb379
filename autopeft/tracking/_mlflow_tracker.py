"""An open MLflow search: a parent run, and a child run a candidate."""

from __future__ import annotations

import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.tracking import _mlflow_values as values
from autopeft.tracking._base import Sizes, Status, Tracker
from autopeft.tracking._mlflow_calls import one_line, our_calls, refused
from autopeft.tracking._mlflow_check import check_place
from autopeft.tracking._mlflow_uri import Place

#: Seconds between two attempts after many that failed; each may leave a deleted run behind.
_LONGEST_PAUSE = 60.0


@dataclass
class _Child:
    """A candidate's run as far as MLflow has it."""

    run_id: str
    metrics: set[str]
    on_front: bool


class MlflowTracker(Tracker):
    """Writes with an `MlflowClient`; MLflow's global state (active run, tracking URI) is left alone.

    `_children` is what MLflow is known to have. It is read from MLflow at first and after a failure, because a call
    that failed may have done half of its work.
    """

    def __init__(self, client: Any, place: Place, url_hint: str, experiment_id: str, parent_id: str) -> None:
        self.uri, self.url_hint, self._place = place.shown, url_hint, place
        self.experiment_id, self.parent_id = experiment_id, parent_id
        self._client = client
        self._children: dict[tuple[str, str], _Child] | None = None
        self._sizes: Sizes = _no_sizes
        self._reason, self._failures, self._next = "", 0, 0.0

    def sync(self, evaluations: Sequence[Evaluation], sizes: Sizes, on_front: Collection[str] | None = None) -> None:
        """Log the candidates that MLflow does not have yet, and what is new of those that it has."""
        self._sizes = sizes
        if time.monotonic() < self._next:
            return
        first = not self._failures
        if not self._attempt(partial(self._bring_up_to_date, evaluations, on_front)) and first:
            self._warn("the search goes on; what is missing is logged when MLflow is back, or on resume")

    def finish(
        self,
        evaluations: Sequence[Evaluation],
        on_front: Collection[str],
        files: Sequence[Path],
        hypervolume: Sequence[float],
        summary: Mapping[str, float],
        status: Status,
        note: str = "",
    ) -> None:
        """Complete the children, then log the outcome to the parent and end it."""

        def work() -> None:
            self._bring_up_to_date(evaluations, on_front)
            self._log_outcome(hypervolume, summary)
            for path in files:
                if path.is_file():
                    self._client.log_artifact(self.parent_id, str(path))
            if note:
                self._client.set_tag(self.parent_id, values.NOTE, values.cut(note))
            self._client.set_terminated(self.parent_id, status)

        if not self._attempt(work):
            self._warn("this search is not complete there; the same command completes it when MLflow is back")

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Whether the work could be done; after a failure nothing is tried before the place answers again."""
        try:
            if self._failures:
                check_place(self._place)
            with our_calls(self._place):
                if self._children is None:
                    self._children = self._read_children()
                work()
        except Exception as error:
            # Whatever it is: a view of the search is no reason to end it.
            if not self._failures or not isinstance(error, AutopeftError):
                self._reason = one_line(error)
            self._children = None
            self._next = time.monotonic() + min(_LONGEST_PAUSE, self._failures)
            self._failures += 1
            return False
        self._failures = 0
        return True

    def _warn(self, consequence: str) -> None:
        warnings.warn(f"tracking: MLflow at {self._place.shown} failed ({self._reason}); {consequence}", stacklevel=3)

    def _read_children(self) -> dict[tuple[str, str], _Child]:
        """What is there. A run that a kill left unfinished is deleted, so that it is logged anew and whole."""
        found: dict[tuple[str, str], _Child] = {}
        token: str | None = ""
        where = f"tags.`{values.PARENT}` = '{self.parent_id}'"
        while token is not None:
            page = self._client.search_runs([self.experiment_id], where, max_results=1000, page_token=token or None)
            for run in page:
                tags = run.data.tags
                if values.NUMBER not in tags:
                    continue
                if run.info.status == "RUNNING":
                    self._client.delete_run(run.info.run_id)
                    continue
                on_front = tags.get(values.ON_FRONT) == "true"
                child = _Child(run.info.run_id, set(run.data.metrics), on_front)
                found[tags[values.NUMBER], tags.get(values.KEY, "")] = child
            token = page.token or None
        return found

    def _bring_up_to_date(self, evaluations: Sequence[Evaluation], on_front: Collection[str] | None) -> None:
        assert self._children is not None
        for evaluation in evaluations:
            identity = (str(evaluation.number), evaluation.key)
            child = self._children.get(identity)
            wanted = None if on_front is None else evaluation.status == "done" and evaluation.key in on_front
            if child is None:
                self._children[identity] = self._log_child(evaluation, bool(wanted))
            else:
                self._update_child(child, evaluation, wanted)

    def _log_child(self, evaluation: Evaluation, on_front: bool) -> _Child:
        now = _now_ms()
        seconds = evaluation.seconds if math.isfinite(evaluation.seconds) else 0.0
        run = self._client.create_run(
            self.experiment_id,
            start_time=now - round(seconds * 1000),
            tags=values.child_tags(evaluation, self.parent_id, on_front),
            run_name=values.run_name(evaluation),
        )
        run_id = run.info.run_id
        params = values.params(values.child_params(evaluation, self._sizes(evaluation)))
        self._log(run_id, values.child_metrics(evaluation, now), params)
        text = json.dumps(evaluation.candidate.to_json(), indent=2)
        _upload(self._place.uri, run.info.artifact_uri, "candidate.json", text)
        # Last, as a run that has ended is taken for complete from then on.
        self._client.set_terminated(run_id, "FAILED" if evaluation.status == "failed" else "FINISHED", now)
        return _Child(run_id, set(values.final_metrics(evaluation)), on_front)

    def _update_child(self, child: _Child, evaluation: Evaluation, on_front: bool | None) -> None:
        """Metrics that came later (test scores of the front), and the place on the front."""
        new = {k: v for k, v in values.final_metrics(evaluation).items() if k not in child.metrics}
        if new:
            self._log(child.run_id, values.metrics(new, _now_ms(), values.last_epoch(evaluation)), [])
            child.metrics |= set(new)
        if on_front is not None and on_front != child.on_front:
            self._client.set_tag(child.run_id, values.ON_FRONT, values.truth(on_front))
            child.on_front = on_front

    def _log_outcome(self, hypervolume: Sequence[float], summary: Mapping[str, float]) -> None:
        now = _now_ms()
        history = self._client.get_metric_history(self.parent_id, "hypervolume") if hypervolume else []
        known = {m.step: m.value for m in sorted(history, key=lambda m: m.timestamp)}
        points = [v for i, h in enumerate(hypervolume) for v in values.metrics({"hypervolume": h}, now, i)]
        new = [m for m in points if m.step not in known or known[m.step] != m.value]
        self._log(self.parent_id, new + values.metrics(summary, now, 0), [])

    def _log(self, run_id: str, metrics: list[Any], params: list[Any]) -> None:
        """In batches; one that the store does not take is left out with a warning, as it would be refused again."""
        for some_metrics, some_params in values.batches(metrics, params):
            try:
                self._client.log_batch(run_id, some_metrics, some_params)
            except Exception as error:
                if not refused(error):
                    raise
                warnings.warn(f"tracking: MLflow did not take some values ({one_line(error)})", stacklevel=2)


def _upload(uri: str, artifacts: str, name: str, text: str) -> None:
    """Write a file of a run. The client would ask for the run again, to learn where its files go."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        get_artifact_repository(artifacts, tracking_uri=uri).log_artifact(str(path))


def _no_sizes(evaluation: Evaluation) -> Mapping[str, int | float]:
    return {}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
