"""An open MLflow search: a parent run, and a child run a candidate."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.searching.highlights import Highlights
from autopeft.tracking import _mlflow_values as values
from autopeft.tracking._base import Sizes, Status, Tracker
from autopeft.tracking._mlflow_calls import one_line, our_calls
from autopeft.tracking._mlflow_check import check_place
from autopeft.tracking._mlflow_children import Children
from autopeft.tracking._mlflow_parent import Parent, now_ms
from autopeft.tracking._mlflow_system import SystemMetrics
from autopeft.tracking._sizes import sizes_over

#: Seconds between two attempts after many that failed; each may leave a deleted run behind.
_LONGEST_PAUSE = 60.0


class MlflowTracker(Tracker):
    """Writes the search's run and its children.

    `_children` is what MLflow is known to have. It is read from MLflow at first and after a failure, because a call
    that failed may have done half of its work. With `sampled` the machine is watched from the first `sync` on. `ended`:
    when the search ended, where that is not when its run does.
    """

    def __init__(
        self, parent: Parent, url_hint: str, naming: values.Naming, sampled: bool = False, ended: int | None = None
    ) -> None:
        self.uri, self.url_hint, self.parent = parent.place.shown, url_hint, parent
        self._naming, self._children = naming, None
        self._sizes: Sizes = sizes_over(())
        self._shown: Highlights | None = None
        self._sampled, self._system, self._ended = sampled, None, ended
        self._reason, self._failures, self._next = "", 0, 0.0

    _children: Children | None
    _system: SystemMetrics | None

    @property
    def parent_id(self) -> str:
        """The search's own run."""
        return self.parent.run_id

    @property
    def experiment_id(self) -> str:
        """The experiment that its runs are in."""
        return self.parent.experiment_id

    def sync(
        self,
        evaluations: Sequence[Evaluation],
        sizes: Sizes,
        on_front: Collection[str] | None = None,
        highlights: Highlights | None = None,
    ) -> None:
        """Log the candidates that MLflow does not have yet, and what is new of those that it has."""
        self._sizes = sizes
        if time.monotonic() < self._next:
            return
        first = not self._failures
        if not self._attempt(partial(self._bring_up_to_date, evaluations, on_front, highlights)) and first:
            self._warn("the search goes on; what is missing is logged when MLflow is back, or on resume")

    def finish(
        self,
        evaluations: Sequence[Evaluation],
        on_front: Collection[str],
        files: Sequence[Path],
        hypervolume: Sequence[float],
        summary: Mapping[str, float],
        status: Status,
        highlights: Highlights | None = None,
    ) -> None:
        """Complete the children, then log the outcome to the parent and end it."""

        def work() -> None:
            self._bring_up_to_date(evaluations, on_front, highlights)
            self._log_outcome(hypervolume, summary)
            self.parent.keep(files)
            self.parent.client.set_terminated(self.parent_id, status, self._ended)

        if not self._attempt(work):
            self._warn("this search is not complete there; the same command completes it when MLflow is back")
        if self._system is not None:
            self._system.close()

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Whether the work could be done; after a failure nothing is tried before the place answers again."""
        try:
            if self._failures:
                check_place(self.parent.place)
            with our_calls(self.parent.place):
                if self._children is None:
                    self._children = Children(self.parent, self._naming)
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
        shown = self.parent.place.shown
        warnings.warn(f"tracking: MLflow at {shown} failed ({self._reason}); {consequence}", stacklevel=3)

    def _bring_up_to_date(
        self, evaluations: Sequence[Evaluation], on_front: Collection[str] | None, highlights: Highlights | None
    ) -> None:
        assert self._children is not None
        over_seeds = {} if highlights is None else highlights.over_seeds
        self._children.bring_up_to_date(evaluations, self._sizes, on_front, over_seeds)
        if highlights is not None and highlights != self._shown:
            self._show(highlights, len(evaluations))
        self._log_samples()

    def _show(self, highlights: Highlights, step: int) -> None:
        """What is to be seen first on the search's own page: figures, tags, description."""
        self.parent.log(self.parent_id, values.metrics(highlights.metrics, now_ms(), step))
        note = {values.NOTE: highlights.note} if highlights.note else {}
        # The tag that says which state is shown comes last.
        self.parent.tag({**note, **highlights.tags})
        self._shown = highlights

    def _log_samples(self) -> None:
        if self._sampled and self._system is None:
            self._system = SystemMetrics(self.parent)
        if self._system is not None:
            samples = self._system.take()
            try:
                self.parent.log(self.parent_id, samples)
            except BaseException:
                self._system.give_back(samples)
                raise

    def _log_outcome(self, hypervolume: Sequence[float], summary: Mapping[str, float]) -> None:
        now, client = now_ms(), self.parent.client
        history = client.get_metric_history(self.parent_id, "hypervolume") if hypervolume else []
        known = {m.step: m.value for m in sorted(history, key=lambda m: m.timestamp)}
        points = [v for i, h in enumerate(hypervolume) for v in values.metrics({"hypervolume": h}, now, i)]
        new = [m for m in points if m.step not in known or known[m.step] != m.value]
        self.parent.log(self.parent_id, new + values.metrics(summary, now, 0))
