"""One large hybrid, cut and healed down the axis of costs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny_project
from test_resumed import assert_same
from test_study import OBJECTIVES, SPACE

from autopeft import train
from autopeft.budget import Budget
from autopeft.candidate import Evaluation, Job, Origin
from autopeft.cli import planning
from autopeft.config import read_yaml
from autopeft.engine.kept import load_weights
from autopeft.engine.settings import TrainingSettings
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.progress import Progress, Silent
from autopeft.resources import shipped
from autopeft.result import SearchResult, export
from autopeft.searching.confirming.plan import job_with
from autopeft.searching.confirming.records import runs_in
from autopeft.searching.descent import Descent, largest
from autopeft.searching.descent_settings import DescentSettings
from autopeft.searching.sources import Allowance
from autopeft.searching.study import Proposal
from autopeft.session import Session
from autopeft.space import SearchSpace

#: Its range of rates is fixed, so that the large hybrid has as many trainings as a plan says.
FIXED = read_yaml(shipped("search_spaces")["hybrid"])
FIXED["training"]["learning_rate"] |= {"widen": False}
FIELDS: dict[str, Any] = {
    "trials": 11,
    "space": FIXED,
    "runner": {"name": "in_process", "cpus": 1, "pack": 4},
    "sampler": {"name": "known_cost", "startup": 2, "seed": 3},
    "training": {"epochs": 3, "batch_size": 16, "max_length": 16, "precision": "fp32", "seed": 5},
    "descent": {"least": 0.1, "share": 1.0},
}


pytestmark = pytest.mark.usefixtures("one_setup")


def search(project: Path, out: Path, progress: Progress | None = None, **changes: Any) -> SearchResult:
    return tiny_project.search(project, out, FIELDS, progress, **changes)


@pytest.fixture(scope="module")
def result(project: Path) -> SearchResult:
    return search(project, project / "run")


def healed(result: SearchResult) -> list[Evaluation]:
    return [e for e in result.evaluations if e.born == "healed"]


def test_a_search_begins_with_a_large_hybrid_and_its_cuts(result: SearchResult) -> None:
    first, by_key = result.evaluations[:3], {e.key: e for e in result.evaluations}
    assert len({e.candidate.hybrid for e in first}) == 1
    assert len({e.candidate.training["learning_rate"] for e in first}) == 3
    assert all(e.fidelity == 3 and e.born == "trained" for e in first)
    found = healed(result)
    # Halves down to a tenth, at two rates each; the sampler has the rest.
    assert [e.number for e in found] == [3, 4, 5, 6, 7, 8]
    for evaluation in found:
        origin = evaluation.origin
        assert origin is not None
        parent = by_key[origin.parent]
        assert evaluation.metrics["trainable_params"] <= parent.metrics["trainable_params"] / 2
        assert evaluation.metrics["trainable_params"] > 0.2 * parent.metrics["trainable_params"]
        assert evaluation.fidelity == 1
        best = max(e.metrics["accuracy"] for e in result.evaluations if _step(e) == _step(parent))
        assert parent.metrics["accuracy"] == best
    assert all(e.job.is_whole for e in result.evaluations[9:])


def test_each_candidate_says_what_it_is(result: SearchResult) -> None:
    table = pd.read_csv(result.run_dir / "trials.csv")
    cuts = [f"healed from {e.origin.parent}" for e in result.evaluations if e.origin is not None]
    assert list(table["role"]) == ["large hybrid"] * 3 + cuts + ["sampler"] * 2
    assert json.loads((result.run_dir / "front.json").read_text())["finished"] is True


def test_a_plan_counts_what_was_trained(project: Path, result: SearchResult) -> None:
    session = Session(Experiment.of(tiny_project.experiment(project, **FIELDS), "test"))
    facts = planning.plan(session, samples=10)
    counts = {phase["name"]: (phase["trainings"], phase["epochs"]) for phase in facts["phases"]}
    assert counts == {"large hybrid": (3, 3), "healings": (6, 1), "sampler": (2, 3)}
    large, healings, _ = facts["phases"]
    costs = [e.metrics["trainable_params"] for e in result.evaluations[:9]]
    assert costs[0] == large["trainable_params"]
    assert all(0.5 * most <= cost <= most for cost, most in zip(costs[3::2], healings["cuts"], strict=True))
    # A healing has a third of the epochs.
    assert healings["seconds"] == pytest.approx(large["seconds"] * 6 / 3 / 3)
    assert facts["seconds"] == pytest.approx(sum(phase["seconds"] for phase in facts["phases"]))


def _step(evaluation: Evaluation) -> int:
    return 0 if evaluation.number < 3 else (evaluation.number - 1) // 2


def test_what_is_healed_goes_on_where_it_was_cut(result: SearchResult) -> None:
    """An epoch after three others: its loss in training is below that of a first epoch."""
    first = max(e.curve[0]["train_loss"] for e in result.evaluations[:3])
    assert all(e.curve[0]["train_loss"] < first for e in healed(result))


def test_a_healed_member_is_exported_as_it_was_measured(result: SearchResult, tmp_path: Path) -> None:
    from autopeft import evaluate

    member = next(e for e in result.front.points if e.born == "healed")
    folder = export(result, member.key, tmp_path / "out")
    found = evaluate(folder)
    assert found["test_accuracy"] == pytest.approx(member.metrics["test_accuracy"])


def test_a_healed_member_comes_again_by_its_recipe(result: SearchResult, tmp_path: Path) -> None:
    """Trained alone here and in packs there: equal to rounding, at each stop."""
    member = max((e for e in result.front.points if e.born == "healed"), key=lambda e: e.number)
    line, by_key = [member], {e.key: e for e in result.evaluations}
    while (origin := line[0].origin) is not None:
        line.insert(0, by_key[origin.parent])
    found = train(export(result, member.key, tmp_path / "out"), result.run_dir / "experiment.yaml", quiet=True)
    (training,) = found.trainings
    assert len(line) > 1
    assert [e.key for e in training.stops] == [e.key for e in line]
    for again, searched in zip(training.stops, line, strict=True):
        for name in ("accuracy", "loss", "train_loss", "trainable_params"):
            assert again.metrics[name] == pytest.approx(searched.metrics[name], rel=1e-5), name
    for name in ("test_accuracy", "test_loss"):
        assert training.metrics[name] == pytest.approx(member.metrics[name], rel=1e-5), name


def test_only_what_is_needed_is_kept(result: SearchResult) -> None:
    training = result.experiment.training
    names = {training.weights_name(e.job) for e in result.front.points}
    starts = {e.origin.start for e in result.front.points if e.origin is not None}
    assert {p.stem for p in (result.run_dir / "weights").iterdir()} == names | starts
    for e in result.front.points:
        assert load_weights(result.run_dir / "weights", training.weights_name(e.job)) is not None


CONFIRMED = {"confirm": {"seeds": 2, "time": 100}}


@pytest.fixture(scope="module")
def confirmed(project: Path, result: SearchResult, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """The same search, confirmed after its end."""
    run = tmp_path_factory.mktemp("confirmed") / "run"
    shutil.copytree(result.run_dir, run)
    return search(project, run, **CONFIRMED)


def test_a_healed_member_is_healed_again_with_other_seeds(confirmed: SearchResult, tmp_path: Path) -> None:
    by_number = {e.number: e for e in confirmed.evaluations}
    runs = runs_in(confirmed.remembered)
    members = [by_number[number] for number in runs if by_number[number].origin is not None]
    assert members
    weights = confirmed.run_dir / "weights"
    for member in members:
        # By the same hybrids, whose importances are this seed's: other weights.
        [own] = runs[member.number]
        assert (own.seed, own.status) == (6, "done")
        assert own.metrics["loss"] != member.metrics["loss"]
    on_front = next(e for e in confirmed.front.points if e.number in runs and e.origin is not None)
    name = confirmed.experiment.training.weights_name(job_with(on_front, 6))
    assert load_weights(weights, name) is not None
    folder = export(confirmed, on_front.key, tmp_path / "out", seed=6)
    record = json.loads((folder / "hybrid.json").read_text())
    assert record["seed"] == record["recipe"][0]["seed"] == 6
    assert {step["cut"]["sizes"] for step in record["recipe"] if "cut" in step} == {"given"}
    # Followed, it gives the same.
    (again,) = train(folder, confirmed.run_dir / "experiment.yaml", quiet=True).trainings
    assert again.metrics["loss"] == pytest.approx(record["metrics"]["loss"], rel=1e-5)


def test_another_seed_is_what_a_search_with_it_would_have_trained(
    project: Path, confirmed: SearchResult, tmp_path: Path
) -> None:
    """But for the hybrids: they are those of the first search."""
    runs, by_number = runs_in(confirmed.remembered), {e.number: e for e in confirmed.evaluations}
    trunk = next(by_number[n] for n in runs if by_number[n].key in {e.origin.parent for e in healed(confirmed)})
    training = {**FIELDS["training"], "seed": 6}
    other = search(project, tmp_path / "run", training=training, trials=6, runner={"name": "in_process", "cpus": 1})
    same = next(e for e in other.evaluations if e.key == trunk.key)
    assert runs[trunk.number][0].metrics["loss"] == pytest.approx(same.metrics["loss"], rel=1e-5)


class _Ends(Silent):
    """Ends the search when so many have finished."""

    def __init__(self, after: int) -> None:
        self.after = after

    def finished(self, evaluation: Evaluation) -> None:
        if evaluation.number + 1 >= self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [3, 5, 9])
def test_ended_on_the_way_it_goes_on_the_same(after: int, project: Path, result: SearchResult, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(project, tmp_path / "run", _Ends(after))
    assert_same(search(project, tmp_path / "run"), result)


class _Begins(Silent):
    """Ends the search when a candidate begins."""

    def started(self, proposal: Proposal) -> None:
        if proposal.number == 6:
            raise KeyboardInterrupt


def test_ended_while_a_cut_is_healed_it_goes_on_the_same(project: Path, result: SearchResult, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(project, tmp_path / "run", _Begins())
    assert_same(search(project, tmp_path / "run"), result)


def test_it_is_part_of_what_a_search_is(project: Path, result: SearchResult) -> None:
    with pytest.raises(AutopeftError, match="descent"):
        search(project, result.run_dir, descent={"least": 0.2})


# --- the source alone


def descent(evaluated: Sequence[Evaluation] = (), **changes: Any) -> Descent:
    terms: dict[str, Any] = {
        "space": SPACE,
        "budget": Budget({"trainable_params": 1500}),
        "score": OBJECTIVES[0],
        "training": TrainingSettings(head="drawn", method_rates="shared", epochs=3),
        "settings": DescentSettings(),
        "units": lambda name: None,
        "keep": lambda name, weights: None,
    }
    return Descent(**{**terms, **changes})


def ended(job: Job, accuracy: float, status: Any = "done") -> Evaluation:
    metrics = {"accuracy": accuracy, "trainable_params": 1}
    return Evaluation(job.candidate, status, metrics, epochs=job.epochs, origin=job.origin)


def test_the_largest_hybrid_uses_the_budget() -> None:
    hybrid = largest(SPACE, Budget({"trainable_params": 100_000}))
    assert hybrid == largest(SPACE, Budget({}))
    small = largest(SPACE, Budget({"trainable_params": 1500}))
    assert small is not None
    assert hybrid is not None
    assert 0 < small.num_params(SPACE.shape) <= 1500 < hybrid.num_params(SPACE.shape)
    assert largest(SPACE, Budget({"trainable_params": 1})) is None
    assert descent(budget=Budget({"trainable_params": 1})).next([], [], 4) is None


def test_it_waits_for_a_step_to_end() -> None:
    source = descent()
    jobs = source.next([], [], 2)
    assert jobs is not None
    assert len(jobs) == 2
    [third] = source.next([], jobs, 4) or []
    assert source.next([], [*jobs, third], 4) == []
    # The first is done, the others run: nobody goes on from a step that is not over.
    assert source.next([ended(jobs[0], 0.5)], [jobs[1], third], 4) == []


def test_the_large_hybrid_is_trained_at_further_rates_while_it_gets_better() -> None:
    low, high = 1e-3, 3e-2
    rate = {"low": low, "high": high, "log": True}
    blocks = {"lora": {"rank": [0, 2, 4, 8]}, "prefix": {"length": [0, 1, 4]}}
    space = SearchSpace.load({"blocks": blocks, "training": {"learning_rate": rate}}, SPACE.shape)
    source = descent(space=space, units=lambda name: None, allowed=Allowance.of(1.0, 40, None))
    tried = [ended(job, 0.5 + 0.1 * i) for i, job in enumerate(source.trunk())]
    [fourth] = source.next(tried, [], 4) or []
    rates = [job.candidate.training["learning_rate"] for job in (*source.trunk(), fourth)]
    assert rates == pytest.approx([low * (high / low) ** part for part in (0.35, 0.6, 0.85, 1.1)])
    assert fourth.cuttable
    assert source.next(tried, [fourth], 4) == []
    # Nothing is gained by it: the step is over, and what is cut is the third.
    assert source.needs([*tried, ended(fourth, 0.6)]) == {job.candidate.key for job in (*source.trunk(), fourth)}
    assert source.next([*tried, ended(fourth, 0.6)], [], 4) is None
    [fifth] = source.next([*tried, ended(fourth, 0.8)], [], 4) or []
    assert fifth.candidate.training["learning_rate"] < 9 * high
    # A search that has cut one of three goes on from there.
    begun = Job(fourth.candidate, None, 1, Origin(tried[2].key, f"{tried[2].key}-cut-9"))
    assert all(job.name != fourth.name for job in source.next(tried, [begun], 4) or [])


def test_it_leaves_trials_to_the_sampler() -> None:
    source = descent(allowed=Allowance.of(0.5, 8, None))
    first = [ended(job, 0.5) for job in source.trunk()]
    assert source.next(first[:2], [], 4) == source.trunk()[2:]
    few = descent(allowed=Allowance.of(0.5, 6, None))
    assert few.next([ended(job, 0.5) for job in few.trunk()], [], 4) is None
    # Of a step all or nothing, in packs of any size.
    assert descent(allowed=Allowance.of(0.5, 4, None)).next([], [], 4) is None
    assert descent(allowed=Allowance.of(0.5, 4, None)).next([], [], 1) is None


def test_it_ends_where_nothing_can_be_cut() -> None:
    source = descent()
    jobs = source.trunk()
    assert source.next([ended(job, 0.5) for job in jobs], [], 4) is None
    assert source.next([ended(job, 0.0, "failed") for job in jobs], [], 4) is None


def test_few_steps_are_larger_ones() -> None:
    assert DescentSettings().factor_for(math.inf) == DescentSettings().factor_for(28) == 0.5
    assert DescentSettings(factor=0.4).factor_for(2) == 0.4
    assert 0.002 < DescentSettings().factor_for(5.5) ** 5 < 0.003
    assert DescentSettings().factor_for(-1) == 0.2
    wide, few = (descent(allowed=Allowance(most)).next_cost(1_000) for most in (60, 13))
    assert wide is not None
    assert few is not None
    assert few < wide


def test_of_a_time_limit_it_has_its_share() -> None:
    source = descent(allowed=Allowance.of(0.5, None, 60.0))
    seen = [replace(ended(job, 0.5), seconds=9.9) for job in source.trunk()]
    late = [replace(e, seconds=15.0) for e in seen]
    # A step that has begun comes to its end, and no other begins.
    assert source.next(late[:2], [], 4) == source.trunk()[2:]
    assert source.next(late, [], 4) is None


def test_nothing_is_trained_to_be_cut_that_cannot_be() -> None:
    space = SearchSpace.load({"blocks": {"compacter": {"bottleneck": [0, 8]}}}, SPACE.shape)
    assert largest(space, Budget({})) is not None
    assert descent(space=space, budget=Budget({})).next([], [], 4) is None


def test_it_ends_where_the_cost_does_not_fall() -> None:
    """LoRA merges: it costs nothing when the model is used."""
    space = SearchSpace.load({"blocks": {"lora": {"rank": [0, 2]}}}, SPACE.shape)
    source = descent(space=space, budget=Budget({}), cost="inference_flops")
    assert largest(space, Budget({})) is not None
    assert source.next([], [], 4) is None
    assert descent(space=space, budget=Budget({})).trunk()
