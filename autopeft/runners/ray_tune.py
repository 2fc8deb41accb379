"""Ray Tune: a trial is a pack, an actor keeps its backbone and takes the next pack by `reset_config`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from autopeft.candidate import Candidate
from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.runners._base import Runner
from autopeft.runners._machine import check_gpus, check_workers
from autopeft.runners._ray_session import RaySession, ray_session

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.setup import Setup
    from autopeft.engine.worker import WorkerSpec
    from autopeft.runners._tune import AskTell
    from autopeft.searching.loop import SearchLoop


class RayTune(Runner):
    """Workers on this machine, or on the Ray cluster at `address`."""

    name: ClassVar[str] = "ray"
    description: ClassVar[str] = "Ray Tune workers on this machine or a cluster (default)"
    workers: int = Field(1, ge=1, description="processes that train")
    cpus_per_worker: float = Field(1, gt=0, description="CPU threads of each")
    gpus_per_worker: float = Field(0, ge=0, description="or a part of one")
    address: str | None = Field(None, description="of a Ray cluster; without it one is started here and stopped again")

    @property
    def parallel(self) -> int:
        """The number of workers."""
        return self.workers

    def measure(self, spec: WorkerSpec, task: TokenizedTask, typical: Candidate) -> Setup:
        """On one worker; here, where that is the same: a process of its own takes seconds to start."""
        from autopeft.engine.probe import measure

        if self._is_here:
            return measure(spec, task, typical, share=self.workers)
        import ray

        remote = ray.remote(num_cpus=self.cpus_per_worker, num_gpus=self.gpus_per_worker)(measure)
        # Workers beside it share the machine's memory, or a GPU's.
        share = 1 / self.gpus_per_worker if 0 < self.gpus_per_worker < 1 else self.workers
        try:
            setup: Setup = ray.get(remote.remote(spec, task, typical, share=share))
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            raise AutopeftError(f"runner: a worker was killed while it was measured ({type(error).__name__})") from None
        return setup

    def run(self, spec: WorkerSpec, task: TokenizedTask, loop: SearchLoop, pack: int) -> None:
        """`Tuner.fit` over the loop, in Ray's thread."""
        with self._ray() as session:
            from autopeft.runners._tune import AskTell

            searcher = AskTell(loop, pack, self.workers)
            if self._is_here and self.workers > 1:
                spec = replace(spec, frozen=_frozen_file(spec, task, session.folder))
            try:
                session.call(lambda: self._fit(searcher, spec, task, session.folder), let_go=searcher.end)
            except Exception as error:
                raise (searcher.error or error) from None
            if searcher.error is not None:
                raise searcher.error

    def _fit(self, searcher: AskTell, spec: WorkerSpec, task: TokenizedTask, scratch: Path) -> None:
        from ray import tune

        from autopeft.runners._tune import EndsWith, PackTrainable

        trainable = tune.with_parameters(PackTrainable, spec=spec, task=task)
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
        with door("runner", "Ray Tune ended with an error", "start the same command again, it goes on with the search"):
            tuner.fit()

    def score_on_test(
        self, spec: WorkerSpec, task: TokenizedTask, candidates: Sequence[Candidate]
    ) -> list[dict[str, float]]:
        """Here, where the workers were, since their cores are free; else one task a worker, over equal shares."""
        from autopeft.engine.report import score_on_test

        if not candidates:
            return []
        if self._is_here:
            return score_on_test(replace(spec, threads=self.workers * self.threads), task, candidates)
        with self.session():
            import ray

            remote = ray.remote(num_cpus=self.cpus_per_worker, num_gpus=self.gpus_per_worker)(score_on_test)
            shared = ray.put(task)
            shares = [list(candidates[i :: self.workers]) for i in range(self.workers)]
            given = [share for share in shares if share]
            running = [remote.remote(spec, shared, share) for share in given]
            answers = [_answer(ray, reference, share) for reference, share in zip(running, given, strict=True)]
        scored = [
            pair for share, scores in zip(given, answers, strict=True) for pair in zip(share, scores, strict=True)
        ]
        by_key = {candidate.key: scores for candidate, scores in scored}
        return [by_key[c.key] for c in candidates]

    @property
    def _is_here(self) -> bool:
        """Whether workers are processes on this machine's CPU."""
        return self.address is None and not self.gpus_per_worker

    @property
    def threads(self) -> int:
        """As many as a worker has CPUs."""
        return max(1, int(self.cpus_per_worker))

    def check(self) -> None:
        """Workers on this machine are not more than it has; of a cluster nothing is known yet."""
        if self.address is None:
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
        with ray_session(self.address, cpus) as session:
            session.call(self._check_resources)
            yield session

    def _check_resources(self) -> None:
        """Ray itself waits for ever, and without a word, for a worker that fits on no machine."""
        import ray

        asked = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(kind, 0) >= n for kind, n in asked.items()) for node in nodes):
            most = ", ".join(f"{max((n.get(kind, 0) for n in nodes), default=0):g} {kind}s" for kind in asked)
            raise AutopeftError(
                f"runner: no machine has {self.cpus_per_worker:g} CPUs and {self.gpus_per_worker:g} GPUs for a worker "
                f"(at most: {most}); mend runner.cpus_per_worker and runner.gpus_per_worker"
            )


def _frozen_file(spec: WorkerSpec, task: TokenizedTask, folder: Path) -> Path | None:
    """The backbone's weights for workers on this machine to share; None where each has its own."""
    from autopeft.engine.sharing import write_frozen

    if spec.setup is None:
        return None
    model = spec.source.model(task.num_labels, task.regression, spec.setup.chosen.dtype, task.pad_id)
    return write_frozen(model, folder / "frozen.safetensors")


def _answer(ray: Any, reference: Any, share: Sequence[Candidate]) -> list[dict[str, float]]:
    """A worker's test scores; none when it was killed."""
    try:
        scores: list[dict[str, float]] = ray.get(reference)
        return scores
    except ray.exceptions.RayError:
        return [{} for _ in share]
