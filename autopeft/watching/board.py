"""Where all that is heard of a running search comes together."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import RLock
from typing import TYPE_CHECKING

from autopeft.candidate import Evaluation
from autopeft.doing import stages
from autopeft.errors import printable
from autopeft.metrics import without_others
from autopeft.watching.clock import Clock
from autopeft.watching.machine import Meter
from autopeft.watching.now import Answer, Now, Running
from autopeft.watching.outlook import Outlook
from autopeft.watching.picture import Picture, Terms
from autopeft.wording import duration

if TYPE_CHECKING:
    from autopeft.searching.study import Proposal

_LONG = 200


class Board:
    """Hears of a search in the thread that runs it, and is read in others."""

    def __init__(self, trials: int | None, workers: int, epochs: int, limit: float | None = None) -> None:
        self.trials, self.epochs = trials, epochs
        self._lock, self._begun = RLock(), time.monotonic()
        self.clock, self._meter = Clock(trials, workers, epochs, limit), Meter()
        self._running: dict[int, Running] = {}
        self._evaluations: dict[int, Evaluation] = {}
        self._now, self._notes, self._answers = Now(), deque[str](maxlen=20), deque[Answer](maxlen=20)
        #: Of the confirmation: how far it is, and when it will end, as far as is known.
        self._confirming: tuple[str, float | None] = "", None
        self._terms: Terms | None = None
        self._picture: tuple[int, Picture] | None = None

    def begun(self, terms: Terms) -> None:
        """What is searched is known."""
        with self._lock:
            self._terms = terms

    def resumed(self, finished: Sequence[Evaluation]) -> None:
        """So many are finished."""
        with self._lock:
            self.clock.resumed(finished)
            self._evaluations |= {evaluation.number: evaluation for evaluation in finished}

    def remarked(self, remarks: Sequence[str]) -> None:
        """Notes, of which the last ones are kept."""
        with self._lock:
            self._notes.extend(printable(remark)[: 4 * _LONG] for remark in remarks)

    def answered(self, answer: Answer) -> None:
        """A request from outside is seen to."""
        with self._lock:
            self._answers.append(answer)

    def measured(self, engine: str) -> None:
        """How it trains."""
        self.at("searching", engine=engine)

    def expecting(self, outlook: Callable[[], Outlook]) -> None:
        """What it is expected to take."""
        with self._lock:
            self.clock.expecting(outlook)

    def started(self, proposal: Proposal) -> None:
        """A candidate is in training."""
        job, candidate = proposal.job, proposal.candidate
        with self._lock:
            self.clock.started(proposal)
            self._running[proposal.number] = Running(
                number=proposal.number,
                key=candidate.key,
                role=printable(job.role)[:_LONG],
                words=printable(candidate.hybrid.summary())[:_LONG],
                epoch=0,
                epochs=job.epochs or self.epochs,
            )

    def epoch(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        """An epoch of it has ended."""
        number, done = proposal.number, int(metrics.get("epoch", 0))
        score = next(iter(without_others(metrics).values()), None)
        with self._lock:
            self.clock.epoch(number, done)
            if number in self._running:
                changes = {"epoch": done, "score": score}
                self._running[number] = self._running[number].model_copy(update=changes)

    def finished(self, evaluation: Evaluation) -> None:
        """It is evaluated."""
        with self._lock:
            self.clock.finished(evaluation)
            self._running.pop(evaluation.number, None)
            self._evaluations[evaluation.number] = evaluation

    def confirming(self, what: str, done: int, total: int, seconds: float | None) -> None:
        """Other seeds are trained."""
        ends = time.monotonic() + seconds if seconds is not None and done < total else None
        with self._lock:
            self._confirming = f"{done}/{total} {what}", ends
        self.at("confirming")

    @property
    def confirmed(self) -> str:
        """How far that is, in words; a time that is over was wrong, and is not said again."""
        with self._lock:
            words, ends = self._confirming
        left = 0.0 if ends is None else ends - time.monotonic()
        return f"{words}, about {duration(left)} left" if left >= 1 else words

    def at(self, phase: str, **changes: str) -> None:
        """What the search is at."""
        with self._lock:
            self._now = self._now.model_copy(update={"phase": phase, **changes})

    def now(self) -> Now:
        """All of it that changes from second to second."""
        # Looking at the machine may take seconds, and the search must not wait for it.
        machine = self._meter.read()
        with self._lock:
            searching = self._now.phase == "searching"
            changes = {
                "running": tuple(running for _, running in sorted(self._running.items())),
                "doing": tuple(f"{one.words} ({duration(one.seconds)})"[:_LONG] for one in stages())[:32],
                "elapsed": time.monotonic() - self._begun,
                "left": self.clock.left() if searching else None,
                "later": self.clock.later if searching else 0.0,
                "confirmed": self.confirmed,
                "machine": machine,
                "notes": tuple(self._notes),
                "answers": tuple(self._answers),
            }
            return self._now.model_copy(update=changes).signed()

    def picture(self) -> Picture | None:
        """What was found so far, worked out anew when there is something new; None before the search has begun."""
        with self._lock:
            if self._terms is None:
                return None
            if self._picture is None or self._picture[0] != len(self._evaluations):
                known = [evaluation for _, evaluation in sorted(self._evaluations.items())]
                self._picture = len(known), Picture.of(self._terms, known)
            return self._picture[1]
