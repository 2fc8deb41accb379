"""What a runner is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from autopeft.candidate import Candidate, Job
from autopeft.config import Strict

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.setup import Setup
    from autopeft.engine.worker import WorkerSpec
    from autopeft.searching.loop import Loop


class Runner(Strict):
    """Takes proposals from a loop, trains them on workers, and gives the evaluations back.

    Invariant: for one worker and one seed, every runner gives the same evaluations.
    """

    name: ClassVar[str]
    description: ClassVar[str]

    pack: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto", description="candidates trained at once"
    )
    cache: float = Field(
        1.0, ge=0, le=65536, description="GiB of frozen layers' outputs a worker keeps in memory, more on disk"
    )

    @property
    def parallel(self) -> int:
        """How many workers train at once."""
        return 1

    def check(self) -> None:
        """`AutopeftError` for what the machine has not, before anything is started."""
        return

    def spec(self, spec: WorkerSpec) -> WorkerSpec:
        """The same with what the runner says of its workers."""
        return replace(spec, threads=self.threads, cache=int(self.cache * 2**30))

    @property
    def measures_here(self) -> bool:
        """Whether `measure` is done in this process, and may be called outside `session`."""
        return False

    @abstractmethod
    def measure(self, spec: WorkerSpec, task: TokenizedTask, typical: Candidate) -> Setup:
        """How fast a worker is, where the workers are; call it inside `session`, or where `measures_here` says so."""

    @property
    def threads(self) -> int:
        """CPU threads of a worker; 0 leaves it to torch."""
        return 0

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keeps what the runner needs up for `run` and `score_on_test` inside."""
        yield

    @abstractmethod
    def run(self, spec: WorkerSpec, task: TokenizedTask, loop: Loop, pack: int) -> None:
        """Run the loop to its end, in packs of at most `pack` candidates."""

    def run_through(self, spec: WorkerSpec, task: TokenizedTask, loop: Loop, pack: int) -> None:
        """The same, and again where the loop had nothing to begin while something ran: a runner without a pack ends."""
        self.run(spec, task, loop, pack)
        while loop.goes_on():
            self.run(spec, task, loop, pack)

    @abstractmethod
    def score_on_test(
        self, spec: WorkerSpec, task: TokenizedTask, jobs: Sequence[Candidate | Job]
    ) -> list[dict[str, float]]:
        """Test scores of what is reported, in its order; a candidate alone is of the search's seed."""
