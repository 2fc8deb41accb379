"""An experiment made ready: everything that can be known, and refused, before training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autopeft.anatomy import remarks_of
from autopeft.budget import Budget, costs_of
from autopeft.candidate import Candidate
from autopeft.costs import COSTS
from autopeft.doing import doing
from autopeft.errors import AutopeftError, suggest
from autopeft.experiment import Experiment
from autopeft.fingerprint import model_files
from autopeft.generating.settings import check_writes
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS
from autopeft.metrics import METRICS
from autopeft.models import ModelSource, find_model
from autopeft.plugins import codes_of
from autopeft.quantising import check_installed, remarks_on
from autopeft.readouts import Readout, bare
from autopeft.runners._machine import cpus
from autopeft.searching.budgeted import LEAST_SHARE
from autopeft.searching.objective import Objective
from autopeft.serving import Serving
from autopeft.space import SearchSpace
from autopeft.space_remarks import on_limits, on_objectives
from autopeft.tasks import others_of
from autopeft.trust import trusted

if TYPE_CHECKING:
    from autopeft.anatomy import TrainingLoad
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.schedule import CostModel
    from autopeft.engine.setup import Setup
    from autopeft.engine.worker import WorkerSpec
    from autopeft.tasks import TaskData

#: Candidates that stand for a search where its time is estimated.
_TYPICAL = 15


def _tests(session: Session) -> dict[str, TokenizedTask]:
    """The task with each test split that the front is measured on, by what the names of its scores begin with."""
    others = {f"test_{name}_": _tokenised(session, data) for name, data in session.others.items()}
    return {"test_": session.tokens} | {mark: session.tokens.measured_on(one) for mark, one in others.items()}


class Session:
    """The model's shape, the task's data, the space, the budget and the objectives of one experiment.

    Opening it checks all of them: `AutopeftError` for what cannot work. Weights are not loaded. `trust_remote_code` is
    the caller's word that the model's own code may run, where the experiment says that it is needed.
    """

    def __init__(self, experiment: Experiment, trust_remote_code: bool = False) -> None:
        self.experiment = experiment
        self.source = source_of(experiment, trust_remote_code)
        if self.source.quantise:
            check_installed(self.source.quantise, "backbone")
        self.shape = self.source.shape()
        # Before anything is computed from it: a configuration may promise far more than is there.
        self.source.check_weights(self.shape)
        self.data = experiment.task.load()
        check_writes(experiment.generation, self.data.readout, "generation")
        self.data.readout.check_model(self.source.config(), self.source.name)
        self.others = others_of(experiment.evaluate_on or {}, experiment.task, self.data)
        self.shape = self.source.shape(self.data.readout).loaded(self.load())
        self.space = SearchSpace.load(experiment.space, self.shape)
        self.serving = Serving(experiment.servable or self.space.servable, self.source, self.data.readout, self.shape)
        self.serving.check(self.space)
        self.check_positions(self.space.input_tokens, self.space.where)
        _check_phases(self.space, self.data.readout, experiment.training.epochs)
        self.budget = Budget.resolve(experiment.budget, self.shape, self.length)
        self.budget.check_feasible(self.space)
        self.objectives = self._objectives()
        self.head_params = self.source.head_params(self.data.readout)

    def check_positions(self, prompt: int, where: str) -> None:
        """`AutopeftError` where the longest text that is kept leaves no positions for a prompt of so many vectors."""
        if self.shape.row.images:
            # These have no place for prompts.
            return
        most = self.source.limits().prompted
        length, left = min(self.experiment.training.max_length, most), most - prompt
        if prompt and length > left:
            remedy = f"set training.max_length to at most {left}" if left >= 4 else "take shorter prompts"
            what = f"prompts of up to {prompt} vectors beside texts of up to {length} tokens"
            raise AutopeftError(f"{where}: {what} need more than the {most} positions of the model; {remedy}")

    def load(self) -> TrainingLoad:
        """How a candidate's training loads this machine's device."""
        from autopeft.engine.load import load_of

        return load_of(self.experiment.training, self.source.quantise, length=self.length)

    @cached_property
    def tokens(self) -> TokenizedTask:
        """The task, tokenised once; with what models are to write, where that is measured."""
        return _tokenised(self, self.data)

    tests = cached_property(_tests)

    @cached_property
    def length(self) -> int:
        """Tokens of an example at most, for which costs are counted."""
        from autopeft.engine.encoding import longest

        return longest(self.source, self.data.readout, self.experiment.training.max_length)

    @cached_property
    def model_files(self) -> dict[str, str]:
        """The fingerprint of the model's configuration, tokenizer and weights."""
        return model_files(self.source.location)

    @property
    def settings(self) -> dict[str, Any]:
        """All that scores depend on beside the data, the space, the objectives and the budget."""
        plugins = self.plugins
        return settings_of(self.experiment, self.model_files) | ({"plugins": plugins} if plugins else {})

    @property
    def plugins(self) -> dict[str, str]:
        """Digests of the code of the plug-ins from outside that scores and proposals depend on."""
        experiment, named = self.experiment, [*self.budget.limits, *(o.metric for o in self.objectives)]
        used: list[type] = [METHODS.get(name) for name in self.space.methods.values()]
        used += [COSTS.get(name) for name in named if name in COSTS.names()]
        return codes_of([*used, type(experiment.sampler), type(experiment.stopping)]) | self.plugins_of_data

    @property
    def plugins_of_data(self) -> dict[str, str]:
        """Those that the task, its labels and its metrics are."""
        metrics = [METRICS.get(name) for name in map(bare, self.data.metrics) if name in METRICS.names()]
        return codes_of([*metrics, *self.experiment.task.kinds, type(self.data.readout)])

    def worker_spec(self, weights: Path, setup: Setup | None = None) -> WorkerSpec:
        """How the experiment's workers are built; they keep trained weights in the folder `weights`."""
        from autopeft.engine.worker import WorkerSpec

        spec = WorkerSpec(self.source, self.experiment.training, weights, setup=setup)
        return self.experiment.runner.spec(spec)

    @cached_property
    def cost_model(self) -> CostModel:
        """What candidates cost the engine."""
        from autopeft.engine.schedule import CostModel, Workload

        training = self.experiment.training
        workload = Workload.of(self.tokens, training)
        one_token = self.data.readout.reads == "one"
        return CostModel(self.shape, workload, training.epochs, self.experiment.runner.cache > 0, one_token)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know before a search, a sentence each: said by `plan`, `search` and the model card."""
        own = (*self.data.remarks, *self.tokens.remarks, *self._of_space())
        return (*own, *remarks_on(self.source.quantise), *remarks_of(self.shape))

    def _of_space(self) -> list[str]:
        """Objectives and limits that say nothing."""
        others = bool(self.experiment.controls.names) or self.experiment.descent is not None
        said = on_objectives(self.space, self.objectives, self.length, others)
        return [*said, *on_limits(self.space, self.budget)]

    @property
    def steps(self) -> int:
        """Steps of a candidate's training."""
        from autopeft.engine.train import train_steps

        return train_steps(self.experiment.training, self.tokens)

    def costs(self, hybrid: Hybrid) -> dict[str, int]:
        """All costs of a hybrid, and the head's parameters beside them."""
        own = costs_of(hybrid, self.shape, self.length)
        return {**own, "head_params": self.head_params}

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


def _check_phases(space: SearchSpace, readout: Readout, epochs: int) -> None:
    """`AutopeftError` where a training has fewer epochs than phases of a method, or one needs other outputs."""
    from autopeft.engine.company import check_outputs

    check_outputs((METHODS.get(name) for name in space.methods.values()), readout)
    for name in space.methods.values():
        phases = len(METHODS.get(name).phases)
        if epochs < phases:
            raise AutopeftError(
                f"{space.where}: method '{name}' divides the training into {phases} phases of an epoch at "
                f"least; set training.epochs to {phases} or more (given: {epochs})"
            )


def source_of(experiment: Experiment, trust_remote_code: bool = False) -> ModelSource:
    """The experiment's model; its own code runs where it is needed and the caller trusts it."""
    where = f"experiment '{experiment.name}'"
    source = find_model(experiment.model, trusted(experiment.trust_remote_code, trust_remote_code, where))
    return replace(source, quantise=experiment.backbone.quantise) if experiment.backbone else source


def _tokenised(session: Session, data: TaskData) -> TokenizedTask:
    from autopeft.engine.generated import tokenized

    most, slots = session.experiment.training.max_length, session.space.input_tokens
    with doing(f"tokenising {len(data.train) + len(data.validation) + len(data.test):,} rows"):
        return tokenized(data, session.source, most, session.experiment.generation, slots)


def settings_of(experiment: Experiment, files: Mapping[str, str]) -> dict[str, Any]:
    """All that scores depend on beside the data, the space, the objectives and the budget, with the model's files."""
    stopping, training = experiment.stopping, experiment.training
    return {
        "model": dict(files),
        # With its own code a model is another one.
        "trust_remote_code": experiment.trust_remote_code,
        "backbone": experiment.resolved().get("backbone"),
        "warm_start": experiment.resolved().get("warm_start"),
        "training": training.identity(),
        **({"descent": experiment.descent.model_dump(mode="json")} if experiment.descent else {}),
        **({"servable": experiment.servable.to_json()} if experiment.servable else {}),
        "stopping": {"name": stopping.name, **stopping.model_dump(mode="json")},
        "controls": experiment.controls.identity(),
    }


def spec_of(session: Session, weights: Path, setup: Setup | None = None) -> WorkerSpec:
    """A worker in this process, with the CPU threads that all workers of the experiment's runner have together."""
    spec, runner = session.worker_spec(weights, setup), session.experiment.runner
    return replace(spec, threads=min(runner.threads * runner.parallel, cpus()))


def typical_candidates(session: Session) -> list[Candidate]:
    """A few candidates such as a search proposes: uniform points, repaired into log-uniform shares of the budget."""
    rng = np.random.default_rng(0)
    space, budget = session.space, session.budget
    least = math.log(max(LEAST_SHARE, budget.least_share(space)))
    parts = [budget.tightened(space, math.exp(rng.uniform(least, 0.0))) for _ in range(_TYPICAL)]
    return [space.decode(part.repair(space, space.random_point(rng), rng)[0]) for part in parts]


def middle(session: Session, candidates: Sequence[Candidate]) -> Candidate:
    """The one of median training FLOPs."""
    return sorted(candidates, key=lambda c: session.costs(c.hybrid)["training_flops"])[len(candidates) // 2]
