"""Ray Tune: a trial is a pack, an actor keeps its backbone and takes the next pack by `reset_config`."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field, field_validator

from autopeft.candidate import Candidate, Job
from autopeft.doing import doing
from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.runners._base import Runner
from autopeft.runners._cluster import check_nodes, check_resources
from autopeft.runners._machine import check_gpus, check_workers, cpus
from autopeft.runners._ray_session import RaySession, ray_session, users_own

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.setup import Setup
    from autopeft.engine.worker import WorkerSpec
    from autopeft.runners._tune import AskTell
    from autopeft.searching.loop import Loop


T = TypeVar("T")

_TUNE = ".tune-"


class RayTune(Runner):
    """Workers on this machine, or on the Ray cluster at `address`."""

    name: ClassVar[str] = "ray"
    description: ClassVar[str] = "Ray Tune workers on this machine or a cluster (default)"
    workers: int = Field(1, ge=1, le=1_000_000, description="processes that train")
    cpus_per_worker: float = Field(1, ge=0.01, le=10_000, description="CPU threads of each")
    gpus_per_worker: float = Field(0, ge=0, le=1_000, description="or a part of one")
    address: str | None = Field(
        None, min_length=1, description="of a Ray cluster; without it one is started here and stopped again"
    )

    @field_validator("cpus_per_worker", "gpus_per_worker")
    @classmethod
    def _whole(cls, value: float) -> float:
        """Ray shares one CPU or GPU, and gives several only whole."""
        if (value > 1 and value % 1) or 0 < value < 0.01:
            raise ValueError("expected a whole number, or a part of 1 that is not below 0.01")
        return value

    @property
    def parallel(self) -> int:
        """The number of workers."""
        return self.workers

    def measure(self, spec: WorkerSpec, task: TokenizedTask, typical: Candidate) -> Setup:
        """On one worker; here, where that is the same: a process of its own takes seconds to start."""
        from autopeft.engine.speed import measure

        if self.measures_here:
            return measure(spec, task, typical, share=self.workers)
        # Workers beside it share the machine's memory, or a GPU's.
        share = 1 / self.gpus_per_worker if 0 < self.gpus_per_worker < 1 else self.workers
        with self._ray() as session:
            self._check_nodes(session, spec)
            (setup,) = session.call(lambda: self._remote(measure, [(spec, task, typical, share)]))
        if setup is None:
            raise AutopeftError("runner: a worker was killed while it was measured (out of memory?)")
        return setup

    def run(self, spec: WorkerSpec, task: TokenizedTask, loop: Loop, pack: int) -> None:
        """`Tuner.fit` over the loop, in Ray's thread."""
        with self._ray() as session:
            from autopeft.runners._tune import AskTell

            searcher = AskTell(loop, pack, self.workers)
            self._check_nodes(session, spec)
            if self.measures_here and self.workers > 1:
                with doing("writing the model for the workers"):
                    spec = replace(spec, frozen=_frozen_file(spec, task, session.folder))
            try:
                with _scratch(session, spec) as scratch:
                    session.call(lambda: self._fit(searcher, spec, task, scratch), let_go=searcher.end)
                    while searcher.is_left_over:
                        session.call(lambda: self._fit(searcher, spec, task, scratch), let_go=searcher.end)
            except Exception as error:
                raise (searcher.error or error) from None
            if searcher.error is not None:
                raise searcher.error

    def _fit(self, searcher: AskTell, spec: WorkerSpec, task: TokenizedTask, scratch: Path) -> None:
        from ray import tune

        from autopeft.runners._tune import EndsWith, PackTrainable, plain_environment

        trainable = tune.with_parameters(PackTrainable, given=(spec, task))
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": self.cpus_per_worker, "gpu": self.gpus_per_worker}),
            tune_config=tune.TuneConfig(
                search_alg=searcher.limited(),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                storage_path=str(scratch),
                verbose=0,
                callbacks=[EndsWith(searcher)],
                # A worker that is killed gets its pack once more, on a new worker.
                failure_config=tune.FailureConfig(max_failures=1),
            ),
        )
        remedy = "start the same command again, it goes on with the search"
        with door("runner", "Ray Tune ended with an error", remedy), plain_environment():
            tuner.fit()

    def score_on_test(
        self, spec: WorkerSpec, task: TokenizedTask, jobs: Sequence[Candidate | Job]
    ) -> list[dict[str, float]]:
        """Here, where the workers were, since their cores are free; else one task a worker, over equal shares."""
        from autopeft.engine.report import score_on_test

        if not jobs:
            return []
        if self.measures_here:
            threads = max(self.threads, min(self.workers * self.threads, cpus()))
            return score_on_test(replace(spec, threads=threads), task, jobs)
        shares = [list(jobs[i :: self.workers]) for i in range(min(self.workers, len(jobs)))]
        with self._ray() as session, doing(f"measuring {len(jobs)} on test"):
            inputs = [(spec, task, share) for share in shares]
            found = session.call(lambda: self._remote(_scored, inputs))
        answers = [scores or [{}] * len(share) for scores, share in zip(found, shares, strict=True)]
        return [answers[i % len(shares)][i // len(shares)] for i in range(len(jobs))]

    def _check_nodes(self, session: RaySession, spec: WorkerSpec) -> None:
        if not session.own:
            session.call(lambda: check_nodes(spec))

    def _remote(self, function: Callable[..., T], inputs: Sequence[tuple[Any, ...]]) -> list[T | None]:
        """What the function makes of the inputs, on a worker each; None where the worker was killed."""
        import ray

        from autopeft.engine.data import TokenizedTask

        remote = ray.remote(num_cpus=self.cpus_per_worker, num_gpus=self.gpus_per_worker)(function)
        # The data go to the object store once.
        shared = {id(value): ray.put(value) for given in inputs for value in given if isinstance(value, TokenizedTask)}
        running = [remote.remote(*(shared.get(id(value), value) for value in given)) for given in inputs]
        return [_answer(ray, reference) for reference in running]

    @property
    def measures_here(self) -> bool:
        """Where workers are processes on this machine's CPU: what they would do is done here, and starts sooner."""
        return self.address is None and not self.gpus_per_worker and not users_own()

    @property
    def threads(self) -> int:
        """As many as a worker has CPUs."""
        return max(1, int(self.cpus_per_worker))

    def check(self) -> None:
        """Workers on this machine are not more than it has; of a cluster nothing is known yet."""
        if self.address is None and not users_own():
            check_workers(self.workers, self.cpus_per_worker, "runner")
            check_gpus(self.gpus_per_worker, self.workers, "runner")

    @contextmanager
    def session(self) -> Iterator[None]:
        """A Ray that this process is connected to: one that the user has already, the one at `address`, or our own."""
        with self._ray():
            yield

    @contextmanager
    def _ray(self) -> Iterator[RaySession]:
        cpus = max(1, math.ceil(self.workers * self.cpus_per_worker))
        with ExitStack() as stack:
            with doing("starting Ray"):
                session = stack.enter_context(ray_session(self.address, cpus))
                session.call(lambda: check_resources(self.cpus_per_worker, self.gpus_per_worker))
            yield session


def _frozen_file(spec: WorkerSpec, task: TokenizedTask, folder: Path) -> Path | None:
    """The backbone's weights for workers on this machine to share; None where each has its own."""
    from autopeft.engine.sharing import write_frozen

    if spec.setup is None:
        return None
    model = spec.source.model(task.readout, spec.setup.chosen.dtype, task.pad_id)
    return write_frozen(model, folder / "frozen.safetensors")


@contextmanager
def _scratch(session: RaySession, spec: WorkerSpec) -> Iterator[Path]:
    """Where Tune keeps its records: of a cluster, all machines must see the place, so it is in the run folder."""
    if session.own or spec.keep is None:
        yield session.folder
        return
    run = spec.keep.parent
    for old in run.glob(f"{_TUNE}*"):
        # Of a killed search.
        shutil.rmtree(old, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=_TUNE, dir=run))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scored(spec: WorkerSpec, task: TokenizedTask, share: Sequence[Candidate | Job]) -> list[dict[str, float]] | None:
    """Test scores; None after an error: the search is over, and the same command tries again."""
    from autopeft.engine.report import score_on_test

    try:
        return score_on_test(spec, task, share)
    except Exception:
        return None


def _answer(ray: Any, reference: Any) -> Any:
    """What a worker returns or raises; None when it was killed."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
    except ray.exceptions.RayError:
        return None
