"""Candidates as children of their search's run: what MLflow has of them, and what is new."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.candidate import Evaluation
from autopeft.tracking import _mlflow_values as values
from autopeft.tracking._base import Sizes
from autopeft.tracking._mlflow_parent import Parent, now_ms


@dataclass
class _Child:
    """A candidate's run as far as MLflow has it."""

    run_id: str
    name: str
    metrics: dict[str, float]
    on_front: bool
    note: str


class Children:
    """What MLflow is known to have, read from it when this is made. `naming` says how a candidate's run is introduced.

    A run that a kill left unfinished is deleted then, so that it is logged anew and whole.
    """

    def __init__(self, parent: Parent, naming: values.Naming) -> None:
        self._parent, self._naming = parent, naming
        self._known = dict(self._read())

    def bring_up_to_date(
        self,
        evaluations: Sequence[Evaluation],
        sizes: Sizes,
        on_front: Collection[str] | None,
        over_seeds: Mapping[int, Mapping[str, float]],
    ) -> None:
        """Log candidates that are new, and what is new of those that are there; `over_seeds`: figures by number."""
        for evaluation in evaluations:
            identity = (str(evaluation.number), evaluation.key)
            child = self._known.get(identity)
            wanted = None if on_front is None else evaluation.status == "done" and evaluation.key in on_front
            if child is None:
                child = self._known[identity] = self._log(evaluation, sizes, bool(wanted))
            seeds = {values.safe_name(k): v for k, v in over_seeds.get(evaluation.number, {}).items()}
            self._update(child, evaluation, wanted, seeds)

    def _read(self) -> list[tuple[tuple[str, str], _Child]]:
        found: list[tuple[tuple[str, str], _Child]] = []
        client, token = self._parent.client, ""  # type: tuple[Any, str | None]
        where = f"tags.`{values.PARENT}` = '{self._parent.run_id}'"
        while token is not None:
            page = client.search_runs([self._parent.experiment_id], where, max_results=1000, page_token=token or None)
            for run in page:
                tags = run.data.tags
                if values.NUMBER not in tags:
                    continue
                if run.info.status == "RUNNING":
                    client.delete_run(run.info.run_id)
                    continue
                on_front = tags.get(values.ON_FRONT) == "true"
                note = tags.get(values.NOTE, "")
                child = _Child(run.info.run_id, run.info.run_name, dict(run.data.metrics), on_front, note)
                found.append(((tags[values.NUMBER], tags.get(values.KEY, "")), child))
            token = page.token or None
        return found

    def _log(self, evaluation: Evaluation, sizes: Sizes, on_front: bool) -> _Child:
        now, parent, name, note = now_ms(), self._parent, self._naming(evaluation), self._naming.note(evaluation)
        seconds = evaluation.seconds if math.isfinite(evaluation.seconds) else 0.0
        run = parent.client.create_run(
            parent.experiment_id,
            start_time=now - round(seconds * 1000),
            tags=values.child_tags(evaluation, parent.run_id, on_front, note),
            run_name=name,
        )
        run_id = run.info.run_id
        params = values.params(values.child_params(evaluation, sizes(evaluation)))
        parent.log(run_id, values.child_metrics(evaluation, now, self._naming.score), params)
        parent.upload(run.info.artifact_uri, "candidate.json", json.dumps(evaluation.candidate.to_json(), indent=2))
        # Last, as a run that has ended is taken for complete from then on.
        parent.client.set_terminated(run_id, "FAILED" if evaluation.status == "failed" else "FINISHED", now)
        return _Child(run_id, name, values.final_metrics(evaluation), on_front, note)

    def _update(
        self, child: _Child, evaluation: Evaluation, on_front: bool | None, over_seeds: Mapping[str, float]
    ) -> None:
        """Metrics that came later (test scores, means over seeds), the place on the front, what it is called."""
        client: Any = self._parent.client
        new = {k: v for k, v in values.final_metrics(evaluation).items() if k not in child.metrics}
        new |= {k: v for k, v in over_seeds.items() if child.metrics.get(k) != v}
        if new:
            self._parent.log(child.run_id, values.metrics(new, now_ms(), values.last_epoch(evaluation)))
            child.metrics |= new
        if on_front is not None and on_front != child.on_front:
            client.set_tag(child.run_id, values.ON_FRONT, values.truth(on_front))
            child.on_front = on_front
        if (name := self._naming(evaluation)) != child.name:
            client.update_run(child.run_id, name=name)
            child.name = name
        if (note := self._naming.note(evaluation)) != child.note:
            client.set_tag(child.run_id, values.NOTE, note)
            child.note = note
