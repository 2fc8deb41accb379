"""Ask and tell, with the rules for when to stop; runners drive it, and know nothing of Optuna."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from autopeft.candidate import Evaluation, failed
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.searching.courses import Courses
from autopeft.searching.stopping import StoppingPlugin
from autopeft.searching.stopping.none import NoStopping
from autopeft.searching.study import Proposal, Study

#: When this many candidates fail before any succeeds, something else than the candidates is wrong.
_HOPELESS = 5


class Listener(Protocol):
    """Who wants to know how the search goes on (progress, tracking)."""

    def started(self, proposal: Proposal) -> None:
        """A candidate is about to be trained."""

    def epoch(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        """An epoch of it has ended."""

    def finished(self, evaluation: Evaluation) -> None:
        """It is evaluated and recorded."""

    def close(self) -> None:
        """The search has ended."""
        return


class SearchLoop:
    """Proposals out, evaluations in.

    Invariants: every proposal is answered by `done` or `failed`; what `done` has returned from is in the study's
    storage; proposals left over by a killed search come first, under their old numbers.
    """

    def __init__(
        self,
        study: Study,
        costs: Callable[[Hybrid], Mapping[str, int]],
        listeners: Sequence[Listener] = (),
        trials: int | None = None,
        time_limit: float | None = None,
        stopping: StoppingPlugin | None = None,
        epochs: int = 1,
    ) -> None:
        self._study, self._costs, self._listeners = study, costs, listeners
        self._trials = trials
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._left_over = list(study.pending())
        self._running: dict[int, Proposal] = {}
        self._courses = Courses(stopping or NoStopping(), study.objectives, epochs, study.evaluations())
        self._ended = False

    @property
    def is_over(self) -> bool:
        """Whether it has come to its end, with nothing running; false after an interrupt."""
        return self._ended and not self._running

    def next(self) -> Proposal | None:
        """The next candidate to train; None when no more shall be started."""
        if self._ended:
            return None
        late = self._deadline is not None and time.monotonic() >= self._deadline
        if late or (self._trials is not None and self._study.finished + len(self._running) >= self._trials):
            self._ended = True
            return None
        proposal = self._left_over.pop(0) if self._left_over else self._study.ask()
        if proposal.candidate.key in self._known():
            warnings.warn("the sampler finds no new candidate in this space and budget: the search ends", stacklevel=2)
            self._study.withdraw(proposal)
            self._ended = True
            return None
        self._running[proposal.number] = proposal
        self._courses.begin(proposal.number, self._costs(proposal.candidate.hybrid))
        for listener in self._listeners:
            listener.started(proposal)
        return proposal

    def next_pack(self, size: int, workers: int = 1) -> list[Proposal]:
        """Up to `size` candidates to train at once; none when no more shall be started.

        Near the end of a known number of trials a pack is a worker's share of what is left, so that all `workers`
        finish together.
        """
        if self._trials is not None:
            left = self._trials - self._study.finished - len(self._running)
            size = min(size, max(1, math.ceil(left / workers)))
        pack: list[Proposal] = []
        while len(pack) < size and (proposal := self.next()) is not None:
            pack.append(proposal)
        return pack

    def epoch(self, pack: Mapping[int, Mapping[str, float]]) -> set[int]:
        """An epoch of a pack has ended, with metrics by number; the numbers of those that shall be stopped.

        After an error a runner may train candidates again from the start: their epochs are then seen again.
        """
        for number, metrics in pack.items():
            self._courses.epoch(number, metrics)
            for listener in self._listeners:
                listener.epoch(self._running[number], metrics)
        return self._courses.stop(pack)

    def done(self, number: int, evaluation: Evaluation) -> None:
        """Record an evaluation, with the candidate's costs among its metrics."""
        proposal = self._running[number]
        metrics = {**evaluation.metrics, **self._costs(proposal.candidate.hybrid)}
        evaluation = replace(evaluation, number=number, repaired=proposal.repaired, metrics=metrics)
        evaluation = self._study.tell(evaluation)
        self._courses.end(evaluation)
        del self._running[number]
        for listener in self._listeners:
            listener.finished(evaluation)
        self._give_up_when_hopeless()

    def failed(self, number: int, reason: str) -> None:
        """Record a candidate whose worker died."""
        self.done(number, failed(self._running[number].candidate, reason))

    def _known(self) -> set[str]:
        """Keys of the candidates that are evaluated or being trained."""
        return {e.key for e in self._study.evaluations()} | {p.candidate.key for p in self._running.values()}

    def _give_up_when_hopeless(self) -> None:
        known = self._study.evaluations()
        enough = len(known) >= min(_HOPELESS, self._trials or _HOPELESS)
        if enough and all(e.status == "failed" for e in known):
            raise AutopeftError(
                f"all of the first {len(known)} candidates failed, so something else than they must be wrong; mend it "
                f"and use a new folder. The last one said: {known[-1].error}"
            )
