"""Ask and tell, with the rules for when to stop; runners drive it, and know nothing of Optuna."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Protocol

from autopeft.candidate import Evaluation, failed
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.searching.courses import Courses
from autopeft.searching.sources import Source
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

    def remarked(self, remarks: Sequence[str]) -> None:
        """What a user should know of it."""
        return


class Loop(Protocol):
    """What a runner drives: packs of proposals out, evaluations in, by their numbers."""

    def next_pack(self, size: int, workers: int = 1) -> list[Proposal]:
        """Up to `size` trainings for one pack; none when no more shall be started."""

    def epoch(self, pack: Mapping[int, Mapping[str, float]]) -> set[int]:
        """An epoch of a pack has ended; the numbers of those that shall be stopped."""

    def done(self, evaluations: Mapping[int, Evaluation]) -> None:
        """A pack has ended."""

    def failed(self, number: int, reason: str) -> None:
        """The worker of a training died."""

    def goes_on(self) -> bool:
        """Whether a runner that has ended shall run it again: it had nothing to begin while something ran."""


class Desk(Source, Protocol):
    """Requests from outside the search: who shall be stopped, whether it shall end, and what to train (a source)."""

    @property
    def ending(self) -> bool:
        """Whether no more trainings shall be begun."""

    def stops(self, numbers: Iterable[int]) -> set[int]:
        """Which of these running candidates shall be stopped."""

    def ended(self, numbers: Iterable[int]) -> None:
        """These candidates are in training no more."""


class SearchLoop:
    """Proposals out, evaluations in.

    Invariants: every proposal is answered by `done` or `failed`; what `done` has returned from is in the study's
    storage; proposals left over by a killed search come first, under their old numbers and in their old packs. With one
    worker a kill comes before a pack is asked for, before it is told, or after: so it changes nothing that follows.
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
        sources: Sequence[Source] = (),
        desk: Desk | None = None,
    ) -> None:
        self._sources, self._desk = [*([] if desk is None else [desk]), *sources], desk
        self._study, self._costs, self._listeners = study, costs, listeners
        self._trials, self._epochs = trials, epochs
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._left_over = study.pending_packs()
        self._running: dict[int, Proposal] = {}
        self._courses = Courses(stopping or NoStopping(), study.objectives, epochs, study.evaluations())
        self._ended = self._waited = False

    @property
    def is_over(self) -> bool:
        """Whether it has come to its end, with nothing running; false after an interrupt."""
        return self._ended and not self._running

    def goes_on(self) -> bool:
        """Whether a runner that has ended shall run it again: a source waited for what ran."""
        waited, self._waited = self._waited, False
        return waited and not self._running and not self._ended

    def next_pack(self, size: int, workers: int = 1) -> list[Proposal]:
        """Up to `size` candidates to train at once, all of them stored; none when no more shall be started.

        Packs of a killed search come first, as they were: what is trained in equal company is equal to the bit. Near
        the end of a known number of trials a new pack is a worker's share of what is left, so that all `workers`
        finish together.
        """
        late = self._deadline is not None and time.monotonic() >= self._deadline
        left = None if self._trials is None else self._trials - self._study.finished - len(self._running)
        asked = self._desk is not None and self._desk.ending
        self._ended = self._ended or late or asked or (left is not None and left <= 0)
        if self._ended:
            return []
        if self._left_over:
            # Larger ones where a smaller pack is asked for now: the old one may have been too much for the machine.
            first, room = self._left_over[0], size if left is None else min(size, left)
            pack, self._left_over[:1] = first[:room], [first[room:]] if first[room:] else []
        else:
            pack = self._ask(size if left is None else min(size, max(1, math.ceil(left / workers))))
        self._running |= {proposal.number: proposal for proposal in pack}
        for proposal in (each for each in pack if each.job.is_whole):
            hybrid = proposal.candidate.hybrid
            self._courses.begin(proposal.number, self._costs(hybrid), hybrid, proposal.job.cuttable)
        for proposal, listener in product(pack, self._listeners):
            listener.started(proposal)
        return pack

    def _ask(self, size: int) -> list[Proposal]:
        """A new pack; a kill leaves all of it or nothing."""
        with self._study.together():
            if pack := self._of_sources(size):
                return pack
            _remark(self._listeners, self._study.widens())
            known = {e.key for e in self._study.evaluations()} | {p.candidate.key for p in self._running.values()}
            while len(pack) < size:
                proposal = self._study.ask(pack[0].number if pack else None)
                if proposal.repeat or proposal.candidate.key in known:
                    self._study.withdraw(proposal)
                    # A source that waits may have more once what runs has ended.
                    self._waited = bool(pack or self._running) and any(each is not self._desk for each in self._sources)
                    self._ended = not self._waited
                    break
                known.add(proposal.candidate.key)
                pack.append(proposal)
        if self._ended:
            warnings.warn("the sampler finds no new candidate in this space and budget: the search ends", stacklevel=2)
        return pack

    def _of_sources(self, size: int) -> list[Proposal]:
        """The first source's that has something; what has no more is not asked again."""
        ended, running = self._study.evaluations(), [p.job for p in self._running.values()]
        known = {e.job.name for e in ended} | {job.name for job in running}
        for source in tuple(self._sources):
            jobs = source.next(ended, running, size)
            if jobs is not None and any(job.name in known for job in jobs):
                warnings.warn(f"{type(source).__name__} repeats itself, and is not asked again", stacklevel=2)
                jobs = None
            if jobs is None:
                self._sources.remove(source)
                continue
            pack: list[Proposal] = []
            for job in jobs[:size]:
                pack.append(self._study.propose(job, pack[0].number if pack else None))
            if pack:
                return pack
        return []

    @property
    def needed(self) -> set[str]:
        """Keys of ended candidates whose weights are still asked for: by sources that would have more."""
        ended = self._study.evaluations()
        # Asked, since a search that goes on after its last trial has not heard yet that they have none.
        going = [source for source in self._sources if source is not self._desk and _goes_on(source, ended)]
        return {key for source in going for key in source.needs(ended)}

    def epoch(self, pack: Mapping[int, Mapping[str, float]]) -> set[int]:
        """An epoch of a pack has ended, with metrics by number; the numbers of those that shall be stopped.

        After an error a runner may train candidates again from the start: their epochs are then seen again.
        """
        for number, metrics in pack.items():
            self._courses.epoch(number, metrics)
            for listener in self._listeners:
                listener.epoch(self._running[number], metrics)
        stopped = self._courses.stop(pack)
        if self._desk is None:
            return stopped
        # After its last epoch a candidate is through: nobody shall hear that it was stopped.
        last = {n: self._running[n].job.epochs or self._epochs for n in pack}
        return stopped | self._desk.stops(n for n, metrics in pack.items() if metrics.get("epoch", 0) < last[n])

    def done(self, evaluations: Mapping[int, Evaluation]) -> None:
        """Record the evaluations of a pack by number, all or none, with the candidates' costs among their metrics."""
        told = self._study.tell_all([self._whole(number, e) for number, e in evaluations.items()])
        for evaluation in told:
            self._courses.end(evaluation)
            del self._running[evaluation.number]
        if self._desk is not None:
            self._desk.ended(evaluation.number for evaluation in told)
        for evaluation, listener in product(told, self._listeners):
            listener.finished(evaluation)
        _give_up_when_hopeless(self._study.evaluations(), self._trials)

    def _whole(self, number: int, evaluation: Evaluation) -> Evaluation:
        proposal = self._running[number]
        metrics = {**evaluation.metrics, **self._costs(proposal.candidate.hybrid)}
        return replace(evaluation, number=number, repaired=proposal.repaired, metrics=metrics, role=proposal.job.role)

    def failed(self, number: int, reason: str) -> None:
        """Record a candidate whose worker died."""
        self.done({number: failed(self._running[number].job, reason)})


def _give_up_when_hopeless(known: Sequence[Evaluation], trials: int | None) -> None:
    enough = len(known) >= min(_HOPELESS, trials or _HOPELESS)
    if enough and all(e.status == "failed" for e in known):
        raise AutopeftError(
            f"all of the first {len(known)} candidates failed, so something else than they must be wrong; mend it "
            f"and use a new folder. The last one said: {known[-1].error}"
        )


def _remark(listeners: Sequence[Listener], remarks: Sequence[str]) -> None:
    for listener in listeners if remarks else ():
        listener.remarked(remarks)


def _goes_on(source: Source, ended: Sequence[Evaluation]) -> bool:
    """Whether a source would have more; also where it cannot write down what that begins at, as on a full disk."""
    try:
        return source.next(ended, [], 1) is not None
    except AutopeftError:
        return True
