"""The two ends of a Ray Tune trial: the trainable on the worker, the searcher in the driver."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from ray import tune
from ray.tune.search import ConcurrencyLimiter, Searcher

from autopeft.candidate import Candidate, Evaluation, failed
from autopeft.engine.data import TokenizedTask
from autopeft.engine.worker import Run, Worker, WorkerSpec
from autopeft.searching.loop import SearchLoop
from autopeft.searching.study import Proposal

T = TypeVar("T")


class CandidateTrainable(tune.Trainable):
    """One step is one epoch; a last step brings the evaluation, as JSON text, since Tune flattens mappings.

    An error is a failed evaluation: Tune would keep it in a file on the worker's machine.
    """

    def setup(self, config: dict[str, Any], spec: WorkerSpec, task: TokenizedTask) -> None:
        """Load the backbone, once an actor."""
        self._worker: Worker | None = None
        self._run: Run | None = None
        self._spoilt = False
        try:
            self._worker = Worker(spec, task)
        except Exception as error:
            self._broken = f"the worker could not start: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next candidate on the same backbone; decline when an error may have spoilt it."""
        self.cleanup()
        if self._spoilt or self._worker is None:
            return False
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        if self._run is None:
            return {"evaluation": json.dumps(failed(self._candidate, self._broken).to_json()), "done": True}
        try:
            return {"epoch_metrics": json.dumps(next(self._run)), "done": False}
        except StopIteration as stop:
            evaluation: Evaluation = stop.value
            return {"evaluation": json.dumps(evaluation.to_json()), "done": True}
        except Exception as error:
            # Who knows what state the device is in: the next candidate gets a new worker.
            self._spoilt = True
            return {"evaluation": json.dumps(failed(self._candidate, error).to_json()), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the study is the state, and a lost candidate is trained again."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""

    def cleanup(self) -> None:
        """Take the hybrid off."""
        if self._run is not None:
            self._run.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self._candidate = Candidate.from_json(config["candidate"])
        if self._worker is not None:
            self._run = self._worker.run(self._candidate)


class AskTell(Searcher):
    """Three methods over the loop. Tune's own record of the search is not used.

    Tune logs and forgets what a searcher raises, so the first error ends the search here and is kept in `error`.
    """

    def __init__(self, loop: SearchLoop) -> None:
        super().__init__(metric=None, mode=None)
        self._loop = loop
        self._running: dict[str, Proposal] = {}
        self.error: Exception | None = None

    def limited(self, workers: int) -> ConcurrencyLimiter:
        """At most as many candidates at once as there are workers."""
        return ConcurrencyLimiter(self, max_concurrent=workers)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next candidate, or the end."""
        proposal = None if self.error else self._guarded(self._loop.next)
        if proposal is None:
            return str(Searcher.FINISHED)
        self._running[trial_id] = proposal
        return {"candidate": proposal.candidate.to_json()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch has ended."""
        if "epoch_metrics" in result:
            number = self._running[trial_id].number
            self._guarded(lambda: self._loop.epoch(number, json.loads(result["epoch_metrics"])))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A candidate is evaluated, or its worker died for good."""
        proposal = self._running.pop(trial_id, None)
        if proposal is not None and not self.error:
            self._guarded(lambda: self._tell(proposal.number, result or {}, error))

    def _tell(self, number: int, result: dict[str, Any], error: bool) -> None:
        if error or not result:
            self._loop.failed(number, "its worker was killed, twice (out of memory?)")
        elif "evaluation" in result:
            self._loop.done(number, Evaluation.from_json(json.loads(result["evaluation"])))
        # Else Tune was interrupted: the candidate stays open in the study, and is trained first when resumed.

    def _guarded(self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except Exception as error:
            self.error = error
            return None

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searchers; the loop is the driver's own, and the study is the state.
        return {name: value for name, value in self.__dict__.items() if name != "_loop"}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is the state."""
