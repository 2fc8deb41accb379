"""A tracker in a thread of its own: the search does not wait for the tool behind it."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Generic, TypeAlias, TypeVar

from autopeft.candidate import Evaluation
from autopeft.searching.highlights import Highlights
from autopeft.secrets import hidden
from autopeft.tracking._base import Sizes, Status, Tracker

T = TypeVar("T", bound=Tracker)
_State: TypeAlias = tuple[Sequence[Evaluation], Sizes, Collection[str] | None, Highlights | None]


class Background(Tracker, Generic[T]):
    """Hands what is to be logged to another tracker, one call at a time; `finish` comes after all that was given.

    What is given is the whole state, so of those that come while a call lasts only the last one is logged. An error
    that the other tracker raises, though it should not, is a warning, said once.
    """

    def __init__(self, tracker: T) -> None:
        self.uri, self.url_hint, self.tracker = tracker.uri, tracker.url_hint, tracker
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracking")
        self._given: SimpleQueue[_State] = SimpleQueue()
        self._jobs: list[Future[None]] = []
        self._said = False

    def sync(
        self,
        evaluations: Sequence[Evaluation],
        sizes: Sizes,
        on_front: Collection[str] | None = None,
        highlights: Highlights | None = None,
    ) -> None:
        """Leave the state to the thread."""
        self._jobs = [job for job in self._jobs if not job.done()]
        self._given.put((tuple(evaluations), sizes, on_front, highlights))
        self._jobs.append(self._thread.submit(self._log_newest))

    def wait(self) -> None:
        """Return when all that was given is logged."""
        for job in self._jobs:
            job.result()

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
        """Finish the other tracker, in this thread, after what it is at."""
        self.wait()
        with self._warned():
            self.tracker.finish(evaluations, on_front, files, hypervolume, summary, status, highlights)

    def _log_newest(self) -> None:
        state = None
        with suppress(Empty):
            while True:
                state = self._given.get_nowait()
        # Nothing when an earlier job has logged this one's state.
        if state is not None:
            with self._warned():
                self.tracker.sync(*state)

    @contextmanager
    def _warned(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._said:
                self._said = True
                what = hidden(" ".join(f"{type(error).__name__} {error}".split()))
                warnings.warn(f"tracking: the search goes on without it ({what})", stacklevel=2)
