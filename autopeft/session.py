"""An experiment made ready: everything that can be known, and refused, before training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.anatomy import head_params_from_config
from autopeft.budget import Budget, costs_of
from autopeft.costs import COSTS
from autopeft.errors import AutopeftError, suggest
from autopeft.experiment import Experiment
from autopeft.hybrid import Hybrid
from autopeft.models import find_model
from autopeft.searching.objective import Objective
from autopeft.space import SearchSpace

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.worker import WorkerSpec


class Session:
    """The model's shape, the task's data, the space, the budget and the objectives of one experiment.

    Opening it checks all of them: `AutopeftError` for what cannot work. Weights are not loaded.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.source = find_model(experiment.model, experiment.trust_remote_code)
        self.shape = self.source.shape()
        self.data = experiment.task.load()
        self.space = SearchSpace.load(experiment.space, self.shape)
        self.budget = Budget.resolve(experiment.budget, self.shape, experiment.training.max_length)
        self.budget.check_feasible(self.space)
        self.objectives = self._objectives()
        config = self.source.config(num_labels=self.data.num_labels)
        self.head_params = head_params_from_config(config)

    @cached_property
    def tokens(self) -> TokenizedTask:
        """The task, tokenised once."""
        from autopeft.engine.data import TokenizedTask

        return TokenizedTask.of(self.data, self.source.tokenizer(), self.experiment.training.max_length)

    def worker_spec(self, weights: Path) -> WorkerSpec:
        """How the experiment's workers are built; they keep trained weights in the folder `weights`."""
        from autopeft.engine.worker import WorkerSpec

        return WorkerSpec(self.source, self.experiment.training, weights, self.experiment.runner.threads)

    def costs(self, hybrid: Hybrid) -> dict[str, int]:
        """All costs of a hybrid, and the head's parameters beside them."""
        costs = costs_of(hybrid, self.shape, self.experiment.training.max_length)
        return {**costs, "head_params": self.head_params}

    def _objectives(self) -> tuple[Objective, ...]:
        known = [*self.data.metrics, "loss", *COSTS.names()]
        names: Sequence[str] = self.experiment.objectives or [self.data.metrics[0], "trainable_params"]
        for name in names:
            if name not in known:
                raise AutopeftError(f"objectives: unknown metric or cost '{name}'; {suggest(name, known)}")
        if len(set(names)) != len(names):
            raise AutopeftError("objectives: the same one twice")
        if all(name in COSTS.names() for name in names):
            raise AutopeftError(f"objectives: only costs; add a metric of the task ({', '.join(self.data.metrics)})")
        return tuple(Objective.of(name) for name in names)
