"""A tracker in a thread of its own: the search does not wait for the tool behind it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from autopeft.candidate import Evaluation
from autopeft.tracking._base import Sizes, Status, Tracker

T = TypeVar("T", bound=Tracker)


class Background(Tracker, Generic[T]):
    """Hands what is to be logged to another tracker, one call at a time; `finish` comes after all that was given.

    What is given is the whole state, so of those that come while a call lasts only the last one is logged. An error
    that the other tracker raises is raised here, by one of the next calls.
    """

    def __init__(self, tracker: T) -> None:
        self.uri, self.url_hint, self.tracker = tracker.uri, tracker.url_hint, tracker
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracking")
        self._given: SimpleQueue[tuple[Sequence[Evaluation], Sizes, Collection[str] | None]] = SimpleQueue()
        self._jobs: list[Future[None]] = []

    def sync(self, evaluations: Sequence[Evaluation], sizes: Sizes, on_front: Collection[str] | None = None) -> None:
        """Leave the state to the thread."""
        self._raise_errors([job for job in self._jobs if job.done()])
        self._given.put((tuple(evaluations), sizes, on_front))
        self._jobs.append(self._thread.submit(self._log_newest))

    def wait(self) -> None:
        """Return when all that was given is logged."""
        self._raise_errors(list(self._jobs))

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
        """Finish the other tracker, in this thread, after what it is at."""
        self.wait()
        self.tracker.finish(evaluations, on_front, files, hypervolume, summary, status, note)

    def _log_newest(self) -> None:
        state = None
        with suppress(Empty):
            while True:
                state = self._given.get_nowait()
        # Nothing when an earlier job has logged this one's state.
        if state is not None:
            self.tracker.sync(*state)

    def _raise_errors(self, jobs: Sequence[Future[None]]) -> None:
        for job in jobs:
            # First, as an error is raised once.
            self._jobs.remove(job)
            job.result()
