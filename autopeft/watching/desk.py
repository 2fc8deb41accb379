"""Where a running search sees to requests from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from autopeft.candidate import ENQUEUED, Candidate, Evaluation, Job
from autopeft.errors import AutopeftError
from autopeft.watching.now import Answer
from autopeft.watching.requests import End, Enqueue, Stop, candidate_of, drop, waiting

#: Seconds between two looks into the folder.
_PAUSE = 0.5


class Desk:
    """Looks for requests between two epochs and before each pack, in the thread of the search.

    It is a source of trainings too: what was enqueued comes before all else. `check` raises `AutopeftError` for a
    candidate that the search cannot train; `answer` hears what became of each request. What was asked to be stopped
    or ended before this search began is of an earlier run, and dropped.
    """

    def __init__(
        self,
        run: Path,
        check: Callable[[Candidate], None],
        answer: Callable[[Answer], None],
        pause: float | None = None,
    ) -> None:
        self._run, self._check, self._answer = run, check, answer
        self._pause = _PAUSE if pause is None else pause
        self._stops: dict[int, str] = {}
        self._queue: list[tuple[str, Candidate]] = []
        self._begun: dict[str, str] = {}
        self._known: set[str] = set()
        self._looked = 0.0
        self._ending = False
        with suppress(AutopeftError):
            for name, request in waiting(run):
                if not isinstance(request, Enqueue):
                    drop(run, name)

    @property
    def ending(self) -> bool:
        """Whether no more trainings shall be begun."""
        self._look()
        return self._ending

    def stops(self, numbers: Iterable[int]) -> set[int]:
        """Which of these running candidates shall be stopped."""
        self._look()
        found = self._stops.keys() & set(numbers)
        for number in found:
            self._answer(Answer(id=self._stops.pop(number), said=f"#{number} is stopped", done=True))
        return found

    def ended(self, numbers: Iterable[int]) -> None:
        """These candidates are in training no more: it is too late to stop them."""
        for number in self._stops.keys() & set(numbers):
            self._answer(Answer(id=self._stops.pop(number), said=f"#{number} was through before", done=False))

    def close(self, ended: Sequence[Evaluation]) -> None:
        """The search has come to its end: what it has trained is seen to, and what waits comes first if it goes on."""
        self._looked = 0.0
        self._look()
        known = {e.key for e in ended}
        self._see_to(known)
        self.ended(tuple(self._stops))
        for name, candidate in self._queue:
            if candidate.key in known:
                self._trained_already(name, candidate)
                continue
            said = f"candidate {candidate.key} waits: the search has ended, and it comes first where that goes on"
            self._answer(Answer(id=name, said=said, done=False))

    def next(self, ended: Sequence[Evaluation], running: Sequence[Job], most: int) -> list[Job]:
        """What was enqueued; never None, since there may be more at any time."""
        self._look()
        known = {e.key for e in ended} | {job.candidate.key for job in running}
        self._see_to(known)
        jobs: list[Job] = []
        while self._queue and len(jobs) < most:
            name, candidate = self._queue.pop(0)
            if candidate.key in known:
                self._trained_already(name, candidate)
                continue
            known.add(candidate.key)
            jobs.append(Job(candidate, role=ENQUEUED))
            self._begun[candidate.key] = name
            self._answer(Answer(id=name, said=f"candidate {candidate.key} is trained now", done=True))
        return jobs

    def needs(self, ended: Sequence[Evaluation]) -> Collection[str]:
        """Nothing: what is enqueued begins at its beginning."""
        return ()

    def _see_to(self, known: set[str]) -> None:
        # Only now the study has them: so a kill in between does not lose one.
        for key in known & self._begun.keys():
            self._drop(self._begun.pop(key))

    def _look(self) -> None:
        if time.monotonic() - self._looked < self._pause:
            return
        self._looked = time.monotonic()
        for name, request in waiting(self._run):
            if name in self._known:
                continue
            self._known.add(name)
            try:
                self._take(name, request)
            except AutopeftError as error:
                self._done(name, str(error), done=False)

    def _take(self, name: str, request: Stop | Enqueue | End | AutopeftError) -> None:
        if isinstance(request, AutopeftError):
            raise request
        if isinstance(request, Enqueue):
            candidate = candidate_of(request)
            self._check(candidate)
            self._queue.append((name, candidate))
            self._answer(Answer(id=name, said=f"candidate {candidate.key} is enqueued", done=False))
        elif isinstance(request, Stop):
            self._stops[request.number] = name
            self._drop(name)
            self._answer(Answer(id=name, said=f"#{request.number} will be stopped after its epoch", done=False))
        else:
            self._ending = True
            self._done(name, "no more trainings are begun")

    def _trained_already(self, name: str, candidate: Candidate) -> None:
        self._done(name, f"candidate {candidate.key} is trained already", done=False)

    def _done(self, name: str, said: str, done: bool = True) -> None:
        self._drop(name)
        self._answer(Answer(id=name, said=said[:900], done=done))

    def _drop(self, name: str) -> None:
        # A file that cannot be removed is not looked at again.
        with suppress(AutopeftError):
            drop(self._run, name)
