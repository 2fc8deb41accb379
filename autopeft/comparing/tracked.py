"""A comparison in the experiment's tracking: a parent run, and a run a method."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, cast

from autopeft.candidate import Candidate, Evaluation
from autopeft.comparing.result import Comparison
from autopeft.comparing.rows import Row
from autopeft.comparing.state import State
from autopeft.hybrid import Hybrid
from autopeft.searching.highlights import Highlights
from autopeft.session import Session
from autopeft.tracking import SearchInfo, Status


@dataclass(frozen=True)
class _Tracked(Evaluation):
    """A row in the place of an evaluation: it is called after its method."""

    method: str = ""
    what: str = ""

    @property
    def key(self) -> str:
        """The method's name; a failed one is a run of its own, since it may work the next time."""
        return f"{self.method} (failed)" if self.status == "failed" else self.method

    @property
    def words(self) -> str:
        """What it is: no hybrid, for a baseline."""
        return self.what


class Tracked:
    """The tracker of a comparison, as a context manager; what is not finished when it ends was killed or failed."""

    def __init__(self, session: Session, comparison: Comparison, state: State) -> None:
        self._comparison, self._state = comparison, state
        experiment = session.experiment
        params: dict[str, Any] = {
            "model": experiment.model,
            "task": session.data.name,
            "metrics": ", ".join(session.data.metrics),
            "splits": session.data.note,
            "backbone_params": session.shape.backbone_params,
            "head_params": session.head_params,
            **{f"training.{name}": value for name, value in experiment.training.model_dump(exclude_none=True).items()},
        }
        name = f"{experiment.name} (comparison)"
        self._tracker = experiment.tracking.open(SearchInfo(name, comparison.folder, state.id, params=params))
        self._finished = False

    def sync(self) -> None:
        """Log the rows that are new."""
        self._tracker.sync(self._evaluations(), self._sizes)

    def finish(self, status: Status = "FINISHED") -> None:
        """Log all rows and files, and end the run."""
        if self._finished:
            return
        self._finished = True
        rows = self._comparison.rows
        summary = {"methods": float(len(rows)), "failed": float(sum(row["status"] == "failed" for row in rows))}
        note = Highlights(note=self._comparison.to_markdown())
        self._tracker.sync(self._evaluations(), self._sizes)
        self._tracker.finish(self._evaluations(), [], self._comparison.files, [], summary, status, note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is not None:
            with suppress(Exception):
                self.finish("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def _evaluations(self) -> list[Evaluation]:
        # Entries keep their places when methods are added.
        places = {name: place for place, name in enumerate(self._state.entries)}
        return [_evaluation(places[row["method"]], row) for row in self._comparison.rows]

    def _sizes(self, evaluation: Evaluation) -> Mapping[str, Any]:
        row = self._comparison.row(list(self._state.entries)[evaluation.number])
        return {"method": row["method"], "family": row["family"]}


def _evaluation(number: int, row: Row) -> Evaluation:
    metrics = {k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and k != "learning_rate"}
    rate = {} if row["learning_rate"] is None else {"learning_rate": row["learning_rate"]}
    candidate, status = Candidate(Hybrid(()), rate), "done" if row["status"] == "done" else "failed"
    named = {"method": row["method"], "what": row["what"], "error": row["reason"]}
    return _Tracked(candidate, cast(Any, status), metrics, number, **named)
