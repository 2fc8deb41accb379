"""The two ends of a Ray Tune trial: the trainable on the worker, the searcher in the driver."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.search import ConcurrencyLimiter, Searcher

from autopeft.candidate import Evaluation, Job
from autopeft.engine.data import TokenizedTask
from autopeft.engine.worker import Run, Worker, WorkerSpec
from autopeft.errors import AutopeftError

if TYPE_CHECKING:
    # A worker has no study, and need not load a database's library.
    from autopeft.searching.loop import Loop
    from autopeft.searching.study import Proposal

T = TypeVar("T")

#: How often a worker may not start in a search: now and then the one before it has not let go of its memory yet.
_REFUSALS = 2


class PackTrainable(tune.Trainable):
    """A trial is a pack, a step an epoch of it; a last step brings the evaluations.

    Who is to be stopped comes from the driver, by a call between two steps: Tune hands a result to its searcher before
    it asks for the next step, and Ray keeps the order of one process's calls to an actor. Nobody waits for it, and
    where nothing is stopped nothing is sent.

    Results are JSON text, since Tune flattens mappings. An error is a failed evaluation: Tune would keep it in a file
    on the worker's machine. That a worker could not start says nothing of its candidates, and is no evaluation.
    """

    def setup(self, config: dict[str, Any], given: tuple[WorkerSpec, TokenizedTask]) -> None:
        """Load the backbone, once an actor. `given` is one value: the spec comes first, and brings the plug-ins."""
        self._given = given
        self._own = ray.get_runtime_context().current_actor
        self._worker: Worker | None = None
        self._run: Run | None = None
        self._stopped: list[int] | None = None
        self._start()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack on the same backbone; on a new one when an error may have spoilt it."""
        self.cleanup()
        # Not declined: Tune would forget the pack without a word to its searcher, which waited for it for ever.
        if self._worker is None or self._worker.spoilt:
            self._start()
        self._begin(new_config)
        return True

    def _start(self) -> None:
        # The one before goes first, with what it holds in cycles: two may not fit.
        self._worker = self._run = None
        gc.collect()
        spec, task = self._given
        try:
            self._worker = Worker(spec, task)
        except Exception as error:
            self._broken = f"the worker could not start: {type(error).__name__}: {' '.join(str(error).split())[:300]}"

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        if self._run is None:
            return {"broken": self._broken, "done": True}
        try:
            stopped, self._stopped = self._stopped, None
            epoch = self._run.send(stopped)
            return {"epoch_metrics": json.dumps(epoch), "worker": self._own, "done": False}
        except StopIteration as stop:
            evaluations: list[Evaluation] = stop.value
        return {"evaluations": json.dumps([e.to_json() for e in evaluations]), "done": True}

    def stop_candidates(self, positions: list[int]) -> None:
        """Stop these members of the pack before its next epoch."""
        self._stopped = positions

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the study is the state, and a lost candidate is trained again."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""

    def cleanup(self) -> None:
        """Take the hybrids off."""
        if self._run is not None:
            self._run.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self._stopped = None
        self._jobs = [Job.from_json(data) for data in config["jobs"]]
        if self._worker is not None:
            self._run = self._worker.run(self._jobs)


@contextmanager
def plain_environment() -> Iterator[None]:
    """Tune's workers have the environment of all others, so that processes which wait already can be its workers.

    Tune would set a variable for a library that is not used here, and Ray start a process for who has variables.
    """
    variables: dict[str, str] = getattr(class_cache, "DEFAULT_ENV_VARS", {})
    own = dict(variables)
    variables.clear()
    try:
        yield
    finally:
        variables.update(own)


class Interrupted(Exception):
    """The search is interrupted, or cannot go on."""


class EndsWith(tune.Callback):
    """Ends Tune's loop soon after its searcher has ended: Tune asks it between two looks at the workers."""

    def __init__(self, searcher: AskTell) -> None:
        self._searcher = searcher

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raise `Interrupted`, upon which Tune ends its workers."""
        if self._searcher.ended or self._searcher.error is not None:
            raise Interrupted


class AskTell(Searcher):
    """Three methods over the loop. Tune's own record of the search is not used.

    Tune logs and forgets what a searcher raises, so the first error ends the search here and is kept in `error`.
    Candidates of a pack whose worker was killed twice are tried once more, each alone. A pack whose worker could not
    start is given out again, and after the third time the search ends with that: such a worker would soon have had all
    candidates. After `end`, which another thread may call, nothing reaches the loop any more.
    """

    def __init__(self, loop: Loop, pack: int, workers: int) -> None:
        super().__init__(metric=None, mode=None)
        self._loop, self._pack, self._workers = loop, pack, workers
        self._running: dict[str, list[Proposal]] = {}
        self._again: list[list[Proposal]] = []
        self._refusals = 0
        self._lock = threading.RLock()
        self.ended = False
        self.error: Exception | None = None

    def limited(self) -> ConcurrencyLimiter:
        """At most as many packs at once as there are workers."""
        return ConcurrencyLimiter(self, max_concurrent=self._workers)

    @property
    def is_left_over(self) -> bool:
        """Whether Tune has ended before some that are to be tried again were: it asks no more after the first end."""
        return bool(self._again) and not self.ended and self.error is None

    def end(self) -> None:
        """The search is interrupted: the candidates in training stay open in the study, to be trained when resumed."""
        with self._lock:
            self.ended = True

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next pack, or the end."""
        if self.error:
            return str(Searcher.FINISHED)
        again = self._again.pop(0) if self._again else None
        proposals = again or self._guarded(lambda: self._loop.next_pack(self._pack, self._workers))
        if not proposals:
            # Not None, which means "ask again": Tune may then see to nothing else for ten minutes.
            return str(Searcher.FINISHED)
        self._running[trial_id] = proposals
        return {"jobs": [p.job.to_json() for p in proposals]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch has ended."""
        if "epoch_metrics" in result:
            proposals, metrics = self._running[trial_id], json.loads(result["epoch_metrics"])
            stopped = self._guarded(lambda: self._epoch(proposals, metrics))
            if stopped:
                result["worker"].stop_candidates.remote(stopped)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A pack is evaluated, or its worker died for good."""
        proposals = self._running.pop(trial_id, [])
        if proposals and not self.error:
            self._guarded(lambda: self._tell(proposals, result or {}, error))

    def _epoch(self, proposals: Sequence[Proposal], metrics: Mapping[str, Mapping[str, float]]) -> list[int]:
        """Positions of those that shall be stopped."""
        stopped = self._loop.epoch({proposals[int(i)].number: own for i, own in metrics.items()})
        return [i for i, proposal in enumerate(proposals) if proposal.number in stopped]

    def _tell(self, proposals: Sequence[Proposal], result: dict[str, Any], error: bool) -> None:
        if error or not result:
            if len(proposals) > 1:
                self._again += [[proposal] for proposal in proposals]
                return
            self._loop.failed(proposals[0].number, "its worker was killed, twice (out of memory?)")
        elif "broken" in result:
            self._refusals += 1
            if self._refusals > _REFUSALS:
                remedy = "mend that (with fewer workers, where they share memory), and start the same command again"
                raise AutopeftError(f"runner: {result['broken']}; {remedy}, it goes on with the search")
            self._again.append(list(proposals))
        elif "evaluations" in result:
            told = [Evaluation.from_json(data) for data in json.loads(result["evaluations"])]
            self._loop.done(dict(zip((p.number for p in proposals), told, strict=True)))
        # Else Tune was interrupted: the candidates stay open in the study, and are trained first when resumed.

    def _guarded(self, action: Callable[[], T]) -> T | None:
        with self._lock:
            if self.ended:
                return None
            try:
                return action()
            except Exception as error:
                self.error = error
                return None

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searchers; the loop is the driver's own, and the study is the state.
        return {name: value for name, value in self.__dict__.items() if name not in ("_loop", "_lock")}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is the state."""
