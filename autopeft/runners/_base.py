"""What a runner is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from autopeft.candidate import Candidate
from autopeft.config import Strict

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.worker import WorkerSpec
    from autopeft.searching.loop import SearchLoop


class Runner(Strict):
    """Takes proposals from a loop, trains them on workers, and gives the evaluations back.

    Invariant: for one worker and one seed, every runner gives the same evaluations.
    """

    name: ClassVar[str]
    description: ClassVar[str]

    @property
    def parallel(self) -> int:
        """How many candidates are trained at once."""
        return 1

    @property
    def threads(self) -> int:
        """CPU threads of a worker; 0 leaves it to torch."""
        return 0

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keeps what the runner needs up for `run` and `score_on_test` inside."""
        yield

    @abstractmethod
    def run(self, spec: WorkerSpec, task: TokenizedTask, loop: SearchLoop) -> None:
        """Run the loop to its end."""

    @abstractmethod
    def score_on_test(
        self, spec: WorkerSpec, task: TokenizedTask, candidates: Sequence[Candidate]
    ) -> list[dict[str, float]]:
        """Test scores of the candidates that are reported, in their order."""
