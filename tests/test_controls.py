"""Controls: what they are on a model, which of them a search begins with, and how they are written."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from test_origins import COSTS
from test_study import BUDGET, SAMPLER, opened
from tiny_models import classifier
from tiny_project import experiment

from autopeft.anatomy import ModelShape, shape_of
from autopeft.candidate import Candidate, Evaluation, Job
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.hybrid import Hybrid
from autopeft.methods import LoRA
from autopeft.resources import shipped
from autopeft.searching.controls import DEFAULT, Controls, ControlSettings, controls_of
from autopeft.searching.loop import SearchLoop
from autopeft.searching.objective import Objective
from autopeft.searching.rates import Rates, next_rung, rates_of
from autopeft.searching.sources import Allowance
from autopeft.session import Session
from autopeft.space import SearchSpace

SITES = dict.fromkeys("qkvo", (64, 64)) | {"up": (64, 256), "down": (256, 64)}
SHAPE = ModelShape("bert", 6, 64, 256, 4, 2, 32, SITES, 400_000)
ALL = tuple(shipped("search_spaces/controls"))


def cost(hybrid: Hybrid) -> int:
    return hybrid.num_params(SHAPE)


def source(most: int | None, limit: int = 10**9, names: tuple[str, ...] = ALL) -> Controls:
    trainings = [{"learning_rate": rate} for rate in (1e-3, 3e-3, 9e-3)]
    allowed = Allowance.of(1.0, most, None)
    rates = Rates(trainings, 0, len(trainings))
    return Controls(controls_of(names, SHAPE), lambda hybrid: rates, cost, lambda h: cost(h) <= limit, allowed)


def all_jobs(controls: Controls, pack: int) -> list[list[Job]]:
    """The packs of jobs that it gives until it has no more."""
    packs: list[list[Job]] = []
    ended: list[Evaluation] = []
    while (jobs := controls.next(ended, [], pack)) is not None:
        packs.append(jobs)
        ended += [Evaluation(job.candidate, "done", {}) for job in jobs]
    return packs


def test_controls_are_uniform_in_the_upper_layers() -> None:
    named = {c.name: c.hybrid for c in controls_of(("head", "lora", "mam"), SHAPE)}
    assert named["head_only"].is_empty
    assert named["lora 2"] == Hybrid.uniform(6, LoRA(2, sites=("q", "v")))
    assert named["lora 2, top half"] == Hybrid.from_layers(6, {key: [LoRA(2, sites=("q", "v"))] for key in (3, 4, 5)})
    assert named["lora 1, top layer"].first_adapted == 5
    assert [m.name for m in named["mam 4+4, top third"].layers[5]] == ["prefix", "parallel"]
    assert len(set(named.values())) == len(named)


def test_what_a_model_has_no_place_for_is_left_out() -> None:
    llama = shape_of(classifier("llama"))
    assert controls_of(("bitfit",), SHAPE)
    for control in controls_of(ALL, llama):
        control.hybrid.check(llama)


def test_the_cheapest_come_first_within_budget_and_share() -> None:
    jobs = [job for pack in all_jobs(source(most=20, limit=4_000), 6) for job in pack]
    costs = [cost(job.candidate.hybrid) for job in jobs]
    assert costs == sorted(costs)
    assert len(jobs) == 18
    # Of more than fit, those chosen span the range: the cheapest and the dearest within the budget are among them, and
    # those between stand at even steps of a logarithm, as far as there are any.
    within = sorted(cost(c.hybrid) for c in controls_of(ALL, SHAPE) if cost(c.hybrid) <= 4_000)
    assert (costs[0], costs[3], costs[-1]) == (0, within[1], within[-1])
    assert max(b / a for a, b in itertools.pairwise(sorted(set(costs[3:])))) < 2 * (costs[-1] / costs[3]) ** 0.25
    assert all_jobs(source(most=2), 6) == []


def test_the_rates_of_a_control_share_a_pack_where_they_fit() -> None:
    for pack in all_jobs(source(most=12), 4):
        assert len({job.candidate.hybrid for job in pack}) == 1
        assert len(pack) == 3
    assert {len(pack) for pack in all_jobs(source(most=12), 2)} == {1, 2}
    assert {len(pack) for pack in all_jobs(source(most=12), 7)} == {6}


@pytest.mark.parametrize(
    ("training", "rates"),
    [
        ({"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}, [1e-3, 3e-3, 9e-3]),
        ({"learning_rate": {"choices": [1e-3, 2e-3, 3e-3, 4e-3]}}, [2e-3, 3e-3, 4e-3]),
        ({"learning_rate": 1e-2}, [1e-2 / 10**0.5, 1e-2, 1e-2 * 10**0.5]),
        ({}, [1e-3 / 10**0.5, 1e-3, 1e-3 * 10**0.5]),
    ],
)
def test_rates_are_around_the_usual_ones_or_those_of_the_space(training: dict[str, Any], rates: list[float]) -> None:
    blocks = {"lora": {"rank": [0, 1]}}
    space = SearchSpace.load({"blocks": blocks, "training": {**training, "weight_decay": 0.1}}, SHAPE)
    found, first, count = rates_of(space, 1e-3, Hybrid.uniform(6, LoRA(2)))
    assert [t["learning_rate"] for t in found[first : first + count]] == pytest.approx(rates)
    assert all(t["weight_decay"] == 0.1 for t in found)
    # Further ones are as far as the range may be widened.
    beyond = [1e-3 / 9, 1e-3 / 3, 27e-3, 81e-3] if "low" in str(training) else []
    assert [t["learning_rate"] for t in (*found[:first], *found[first + count :])] == pytest.approx(beyond)
    # The head alone begins where a linear probe ended, and is trained once.
    assert len(rates_of(space, 1e-3, Hybrid.uniform(6)).trainings) == 1


def climbing(wants: float, most: int | None = 12, pack: int = 3) -> tuple[Controls, list[tuple[str, float]]]:
    """LoRA's controls of a space with a range, and what is trained where the loss is least at a rate."""
    blocks = {"lora": {"rank": [0, 1]}}
    space = SearchSpace.load({"blocks": blocks, "training": {"learning_rate": RANGE}}, SHAPE)
    some = Controls(
        controls_of(("head", "lora"), SHAPE), lambda hybrid: rates_of(space, 1e-3, hybrid), cost, lambda hybrid: True,
        Allowance.of(1.0, most, None), Objective(metric="loss", direction="min"),
    )  # fmt: skip
    ended: list[Evaluation] = []
    found = []
    while (jobs := some.next(ended, [], pack)) is not None:
        assert jobs
        for job in jobs:
            rate = job.candidate.training["learning_rate"]
            ended.append(Evaluation(job.candidate, "done", {"loss": abs(math.log(rate / wants))}, role=job.role))
            found.append((job.role, rate))
    return some, found


RANGE = {"low": 1e-3, "high": 3e-2, "log": True}


def test_a_control_is_trained_at_further_rates_while_it_gets_better() -> None:
    """And the next one begins there; the third of what is allowed comes on top."""
    some, found = climbing(1.0)
    first, second, third = (list(group) for _, group in itertools.groupby(found[1:], key=lambda one: one[0]))
    usual = 2 * 1e-3
    assert [rate / usual for _, rate in first] == pytest.approx([0.5, 1.5, 4.5, 13.5, 40.5])
    assert [rate / usual for _, rate in second] == pytest.approx([4.5, 13.5, 40.5])
    assert [rate / usual for _, rate in third] == pytest.approx([4.5, 13.5, 40.5])
    assert {job.key for job in (Candidate(g[0].hybrid, g[0].training) for _, g in some.groups)} <= some.names.keys()
    assert len(found) == 1 + 5 + 3 + 3


@pytest.mark.parametrize(("most", "pack"), [(12, 5), (18, 16), (39, 64)])
def test_further_rates_are_a_third_of_what_is_allowed_in_packs_of_any_size(most: int, pack: int) -> None:
    some, found = climbing(1.0, most, pack)
    usual = sum(len(group) for _, group in some.groups)
    assert usual < len(found) <= usual + most // 3


def test_without_a_number_of_trials_further_rates_are_as_many_as_there_are() -> None:
    some, found = climbing(1.0, None, 64)
    # All but the head go on, twice.
    assert len(found) == sum(len(group) for _, group in some.groups) + 2 * (len(some.groups) - 1)


def test_a_control_is_trained_at_lower_rates_while_it_gets_better() -> None:
    _, found = climbing(1e-6)
    assert [rate / 2e-3 for _, rate in found[1:6]] == pytest.approx([0.5, 1.5, 4.5, 0.5 / 3, 0.5 / 9])
    assert [rate / 2e-3 for _, rate in found[6:9]] == pytest.approx([0.5 / 9, 0.5 / 3, 0.5])


def test_usual_rates_suffice_where_the_best_lies_between() -> None:
    _, found = climbing(3e-3)
    assert len(found) == 1 + 3 * 3


@pytest.mark.parametrize(
    ("losses", "rung"),
    [
        ({1: 3.0, 2: 2.0, 3: 1.5}, 4),
        ({1: 3.0, 2: 2.0, 3: 1.6}, None),
        ({1: 3.0, 2: 2.0, 3: 2.5}, None),
        ({1: 1.0, 2: 2.0, 3: 3.0}, 0),
        ({1: 1.0, 2: 2.0, 3: math.inf}, None),
        ({1: math.inf, 2: 2.0, 3: 1.0}, None),
        ({1: math.inf, 2: math.inf, 3: math.inf}, None),
        ({0: 1.0, 1: 2.0, 2: 3.0}, None),
        ({2: 3.0, 3: 2.0, 4: 1.0}, None),
        ({1: 3.0, 2: 2.0}, None),
    ],
)
def test_the_next_rung(losses: dict[int, float], rung: int | None) -> None:
    assert next_rung(losses, 5) == rung


def test_samplers_learn_from_controls_that_are_in_their_space(tmp_path: Path) -> None:
    study = opened(tmp_path)
    shape = study._space.shape
    inside, outside = (Candidate(Hybrid.uniform(2, LoRA(rank))) for rank in (2, 3))
    assert inside.hybrid.num_params(shape) <= BUDGET.limits["trainable_params"]
    loop = SearchLoop(study, lambda hybrid: COSTS, (), 4, sources=[_Given([Job(inside), Job(outside)])])
    loop.next_pack(2)
    params = [trial.params for trial in study._file.get_all_trials(study._file.study)]
    assert study._space.decode(params[0]) == inside
    assert params[1] == {}
    # What is read back is the same, and is not proposed again.
    again = opened(tmp_path, sampler=SAMPLER)
    assert [p.candidate for p in again.pending()] == [inside, outside]


def test_of_a_time_limit_controls_have_their_share() -> None:
    trainings, allowed = [{"learning_rate": rate} for rate in (1e-3, 3e-3)], Allowance.of(1 / 3, None, 30.0)
    rates = Rates(trainings, 0, 2)
    some = Controls(controls_of(ALL, SHAPE), lambda hybrid: rates, cost, lambda hybrid: True, allowed)
    names = [name for name, _ in some.groups]
    costs = [cost(group[0].hybrid) for _, group in some.groups]
    # Whenever it ends, the range of costs has some: its ends come first, then its middle.
    assert (costs[0], costs[1]) == (min(costs), max(costs))
    assert costs[2] == sorted(costs)[(len(costs) - 1) // 2]
    assert sorted(names) == sorted(name for name, _ in source(most=None).groups)
    ended = [Evaluation(c, "done", {}, seconds=4.9) for _, group in some.groups[:1] for c in group]
    assert some.next(ended, [], 2) == [Job(c) for c in some.groups[1][1]]
    late = [Evaluation(c, "done", {}, seconds=5.0) for _, group in some.groups[:1] for c in group]
    assert some.next(late, [], 2) is None


def test_a_search_that_goes_on_has_the_controls_that_it_had() -> None:
    few, more = source(most=6), source(most=30)
    more.only(few.names.keys())
    assert [job for pack in all_jobs(more, 3) for job in pack] == [job for pack in all_jobs(few, 3) for job in pack]
    # Four at even steps of the costs are not among five of them.
    few, more = source(most=12), source(most=15)
    assert not few.names.keys() <= more.names.keys()
    more.only(few.names.keys())
    assert all_jobs(more, 3) == all_jobs(few, 3)


class _Given:
    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs

    def next(self, ended: object, running: list[Job], most: int) -> list[Job] | None:
        return None if running else self._jobs

    def needs(self, ended: object) -> list[str]:
        return []


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("none", ()),
        ([], ()),
        (None, ()),
        ("default", DEFAULT),
        ("lora", ("lora",)),
        (["lora", "head", "lora"], ("lora", "head_only")),
        (["head_only", "head", "full_fine_tuning"], ("head_only", "full_fine_tuning")),
        ({"names": ["ia3"], "share": 0.5}, ("ia3",)),
    ],
)
def test_controls_are_written_in_short(given: Any, names: tuple[str, ...]) -> None:
    settings = ControlSettings.model_validate(given)
    assert settings.names == names
    assert ControlSettings.model_validate(settings.model_dump(mode="json")) == settings
    # What older searches were, they are.
    stems = [{"head_only": "head", "full_fine_tuning": "full"}.get(name, name) for name in names]
    assert (settings.identity() or {"names": []})["names"] == stems
    assert (settings.identity() is None) == (not names)
    assert ControlSettings.model_validate("all").baselines == {"full": "full_fine_tuning"}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("controls", ["lora", "pfeifer"], "controls.*unknown control 'pfeifer'.*pfeiffer"),
        ("controls", {"names": ["lora"], "share": 2}, "controls.share"),
        ("controls", 3, "controls"),
        ("confirm", {"seeds": -1}, "confirm.seeds"),
        ("confirm", {"members": "some"}, "confirm.members"),
        ("confirm", {"time": 0}, "confirm.time"),
        ("confirm", "yes", "confirm"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(field: str, value: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match=said) as caught:
        Experiment.of(experiment(tmp_path, **{field: value}), "test.yaml")
    assert "\n" not in str(caught.value)


def test_controls_make_another_search_and_confirming_does_not(tmp_path: Path) -> None:
    plain, other, same = (
        Experiment.of(experiment(tmp_path, **changes), "test")
        for changes in ({}, {"controls": ["lora"]}, {"confirm": {}})
    )
    assert plain.confirm.seeds == 0
    assert same.confirm.seeds == 5
    assert "controls" in str(plain.difference(other))
    assert plain.difference(same) is None
    assert Session(plain).settings["controls"] is None
