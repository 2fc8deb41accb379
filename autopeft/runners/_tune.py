"""The two ends of a Ray Tune trial: the trainable on the worker, the searcher in the driver."""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.tune.search import ConcurrencyLimiter, Searcher

from autopeft.candidate import Candidate, Evaluation
from autopeft.engine.data import TokenizedTask
from autopeft.engine.worker import Worker, WorkerSpec
from autopeft.search.loop import SearchLoop
from autopeft.search.study import Proposal


class CandidateTrainable(tune.Trainable):  # type: ignore[misc]
    """One step is one epoch; a last step brings the evaluation."""

    def setup(self, config: dict[str, Any], spec: WorkerSpec, task: TokenizedTask) -> None:
        """Load the backbone, once an actor."""
        self._worker = Worker(spec, task)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next candidate on the same backbone."""
        self._run.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        try:
            return {"epoch_metrics": dict(next(self._run)), "done": False}
        except StopIteration as stop:
            evaluation: Evaluation = stop.value
            return {"evaluation": evaluation.to_json(), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the study is the state, and a lost candidate is trained again."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""

    def cleanup(self) -> None:
        """Take the hybrid off."""
        self._run.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self._run = self._worker.run(Candidate.from_json(config["candidate"]))


def searcher(loop: SearchLoop, workers: int) -> ConcurrencyLimiter:
    """The loop as a Tune search algorithm for that many workers."""
    return ConcurrencyLimiter(AskTell(loop), max_concurrent=workers)


class AskTell(Searcher):  # type: ignore[misc]
    """Three methods over the loop. Tune's own record of the search is not used."""

    def __init__(self, loop: SearchLoop) -> None:
        super().__init__(metric=None, mode=None)
        self._loop = loop
        self._running: dict[str, Proposal] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next candidate, or the end."""
        proposal = self._loop.next()
        if proposal is None:
            return str(Searcher.FINISHED)
        self._running[trial_id] = proposal
        return {"candidate": proposal.candidate.to_json()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch has ended."""
        if "epoch_metrics" in result:
            self._loop.epoch(self._running[trial_id].number, result["epoch_metrics"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A candidate is evaluated, or its worker died for good."""
        proposal = self._running.pop(trial_id, None)
        if proposal is None:
            return
        if error or not result or "evaluation" not in result:
            self._loop.failed(proposal.number, "its worker died or raised an error; see the Ray logs")
        else:
            self._loop.done(proposal.number, Evaluation.from_json(result["evaluation"]))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is the state."""
