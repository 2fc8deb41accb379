"""Train in this process: for debugging, and where Ray is not wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from autopeft.candidate import Candidate, Job
from autopeft.doing import doing
from autopeft.runners._base import Runner
from autopeft.runners._machine import check_cpus

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.setup import Setup
    from autopeft.engine.worker import WorkerSpec
    from autopeft.searching.loop import Loop


class InProcess(Runner):
    """One worker, here."""

    name: ClassVar[str] = "in_process"
    description: ClassVar[str] = "one worker in this process, for debugging"
    cpus: int = Field(0, ge=0, description="CPU threads; 0 leaves it to torch")

    def check(self) -> None:
        """As many threads as there are CPUs."""
        check_cpus(self.cpus, "runner.cpus")

    @property
    def threads(self) -> int:
        """As given."""
        return self.cpus

    def measure(self, spec: WorkerSpec, task: TokenizedTask, typical: Candidate) -> Setup:
        """Here."""
        from autopeft.engine.speed import measure

        return measure(spec, task, typical, share=1)

    def run(self, spec: WorkerSpec, task: TokenizedTask, loop: Loop, pack: int) -> None:
        """One pack after another."""
        from autopeft.engine.worker import Worker

        worker: Worker | None = None
        while proposals := loop.next_pack(pack):
            if worker is None:
                with doing("loading the model"):
                    worker = Worker(spec, task)
            run = worker.run([p.job for p in proposals])
            positions = {p.number: i for i, p in enumerate(proposals)}
            stopped: list[int] | None = None
            try:
                while True:
                    epoch = run.send(stopped)
                    stopped = [positions[n] for n in loop.epoch({proposals[i].number: m for i, m in epoch.items()})]
            except StopIteration as end:
                loop.done(dict(zip(positions, end.value, strict=True)))

    def score_on_test(
        self, spec: WorkerSpec, task: TokenizedTask, jobs: Sequence[Candidate | Job]
    ) -> list[dict[str, float]]:
        """The same, for what is reported."""
        from autopeft.engine.report import score_on_test

        return score_on_test(spec, task, jobs)
