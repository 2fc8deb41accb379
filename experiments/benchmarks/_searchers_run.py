"""One search on a surface: packs of proposals, epoch by epoch, with or without a stopping rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import optuna
from _surfaces import COST, SCORE, Surface, surface
from optuna.trial import Trial

from autopeft.candidate import Evaluation
from autopeft.searching.budgeted import BudgetedSampler
from autopeft.searching.courses import Courses
from autopeft.searching.front import ParetoFront
from autopeft.searching.objective import Objective
from autopeft.searching.problem import Prior, Problem
from autopeft.searching.samplers import SAMPLERS, SamplerPlugin, sampler_from
from autopeft.searching.stopping import stopping_from
from autopeft.searching.warm_start import prior_from

OBJECTIVES = (Objective(metric=SCORE, direction="max"), Objective(metric=COST, direction="min"))


@dataclass(frozen=True)
class Contender:
    """`log_cost`: the study is told the logarithm of the cost. `needs`: the library that must be there.

    `warm`: it knows a search on the surface of `SOURCES`.
    """

    plugin: Callable[[int], SamplerPlugin]
    log_cost: bool = False
    needs: str = "optuna"
    sampler: str = "random"
    warm: bool = False

    @property
    def is_here(self) -> bool:
        return find_spec(self.needs) is not None and self.sampler in SAMPLERS.names()


def _shipped(name: str, log_cost: bool = False, needs: str = "optuna", **options: Any) -> Contender:
    return Contender(lambda seed: sampler_from({"name": name, "seed": seed, **options}), log_cost, needs, name)


def _nehvi(exact_costs: bool) -> Contender:
    def plugin(seed: int) -> SamplerPlugin:
        from _searchers_botorch import NehviPlugin

        return NehviPlugin(seed=seed, exact_costs=exact_costs)

    return Contender(plugin, needs="botorch")


CONTENDERS: Mapping[str, Contender] = {
    "random": _shipped("random"),
    "nsga2": _shipped("nsga2"),
    "tpe": _shipped("tpe"),
    "gp": _shipped("gp"),
    # Optuna's Gaussian processes standardise what they are told: parameters spread over two decades fit badly.
    "gp_log": _shipped("gp", log_cost=True),
    "qlognehvi": _nehvi(exact_costs=False),
    "qlognehvi_exact": _nehvi(exact_costs=True),
    "known_cost": _shipped("known_cost", needs="botorch"),
    "known_cost_warm": replace(_shipped("known_cost", needs="botorch"), warm=True),
}

#: The surface of the same space whose search a warm start knows, and how many trials that search has.
SOURCES, SOURCE_TRIALS = {"trec": "subj", "subj": "trec", "additive": "coupled", "coupled": "additive"}, 64


@dataclass(frozen=True)
class Setting:
    """One search; `stopping` is the name of a rule."""

    contender: str
    surface: str
    seed: int
    stopping: str
    trials: int
    pack: int


@dataclass
class _Running:
    """A candidate in training; `scores` and `losses` are those of a whole training."""

    trial: Trial
    point: dict[str, int | float]
    scores: np.ndarray
    losses: np.ndarray
    cost: int
    epochs: int = 0
    stopped: bool = False
    evaluation: Evaluation | None = None

    def metrics(self, epoch: int) -> dict[str, float]:
        return {"epoch": epoch, SCORE: float(self.scores[epoch - 1]), "loss": float(self.losses[epoch - 1])}


def simulate(setting: Setting) -> dict[str, Any]:
    """What the search did, trial by trial.

    `observed` is the score of the last epoch that was trained, `final` what it would have been at the end, `true` that
    without noise; `stopped` and `epochs` (trained) by trial; `ask` are the seconds that each proposal took.
    """
    members, ask = _search(setting, _prior(setting) if CONTENDERS[setting.contender].warm else None)
    return _record(setting, surface(setting.surface), members, ask)


def _prior(setting: Setting) -> Prior:
    """What a cold search on the other surface has found, with another seed."""
    there = replace(
        setting,
        contender="known_cost",
        surface=SOURCES[setting.surface],
        seed=1_000 + setting.seed,
        stopping="none",
        trials=SOURCE_TRIALS,
    )
    on, (members, _) = surface(there.surface), _search(there)
    done = [m.evaluation for m in members if m.evaluation is not None]
    return prior_from(ParetoFront(done, OBJECTIVES, on.budget.limits), on.space)


def _search(setting: Setting, prior: Prior | None = None) -> tuple[list[_Running], list[float]]:
    """The trials in their order, and the seconds that each proposal took."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    on, contender = surface(setting.surface), CONTENDERS[setting.contender]
    problem = Problem(on.space, on.budget, OBJECTIVES, on.epochs, prior)
    sampler = BudgetedSampler(problem, contender.plugin(setting.seed))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    courses = Courses(stopping_from(setting.stopping), OBJECTIVES, on.epochs)
    members: list[_Running] = []
    ask: list[float] = []
    while len(members) < setting.trials:
        pack: list[_Running] = []
        for _ in range(min(setting.pack, setting.trials - len(members))):
            start = time.perf_counter()
            trial = study.ask()
            candidate = on.space.suggest(trial)
            ask.append(time.perf_counter() - start)
            scores, losses = on.course(trial.params, setting.seed)
            pack.append(_Running(trial, trial.params, scores, losses, candidate.hybrid.num_params(on.space.shape)))
        _train(pack, courses, on.epochs)
        for member in pack:
            member.evaluation = _tell(study, on, member, contender.log_cost)
            courses.end(member.evaluation)
        members += pack
    return members, ask


def _train(pack: list[_Running], courses: Courses, epochs: int) -> None:
    """A pack, epoch by epoch; the rule looks after each."""
    for member in pack:
        courses.begin(member.trial.number, {COST: member.cost})
    for epoch in range(1, epochs + 1):
        going = {m.trial.number: m for m in pack if not m.stopped}
        for number, member in going.items():
            member.epochs = epoch
            courses.epoch(number, member.metrics(epoch))
        for number in courses.stop(going):
            going[number].stopped = True


def _tell(study: optuna.Study, on: Surface, member: _Running, log_cost: bool) -> Evaluation:
    """Tell the study as a search does: the values of the last epoch, and the whole evaluation as an attribute."""
    curve = tuple(member.metrics(e) for e in range(1, member.epochs + 1))
    evaluation = Evaluation(
        on.space.decode(member.point),
        "stopped" if member.stopped else "done",
        {SCORE: curve[-1][SCORE], "loss": curve[-1]["loss"], COST: member.cost},
        number=member.trial.number,
        curve=curve,
    )
    member.trial.set_user_attr("evaluation", evaluation.to_json())
    study.tell(member.trial, [curve[-1][SCORE], float(np.log10(member.cost)) if log_cost else float(member.cost)])
    return evaluation


def _record(setting: Setting, on: Surface, members: list[_Running], ask: list[float]) -> dict[str, Any]:
    rows = np.array([[m.point[d.name] for d in on.space.dimensions] for m in members], dtype=float)
    return {
        **asdict(setting),
        "version": on.version,
        "cost": [m.cost for m in members],
        "observed": [round(float(m.scores[m.epochs - 1]), 5) for m in members],
        "final": [round(float(m.scores[-1]), 5) for m in members],
        "true": [round(float(t), 5) for t in on.mean_of(rows)[:, -1]],
        "epochs": [m.epochs for m in members],
        "stopped": [m.stopped for m in members],
        "ask": [round(seconds, 4) for seconds in ask],
    }
