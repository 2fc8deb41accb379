"""What is said of scores over several seeds: made-up numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_study import TINY, opened

from autopeft.candidate import Candidate, Evaluation, Job, Origin, failed
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import LoRA
from autopeft.searching.confirming.loop import ConfirmLoop
from autopeft.searching.confirming.plan import Plan
from autopeft.searching.confirming.records import keep_controls, keep_pack, keep_tests, runs_in
from autopeft.searching.confirming.statistics import difference, p_front, standard_errors
from autopeft.searching.confirming.values import Run
from autopeft.searching.confirming.verdict import compared, in_share, judged, training_of
from autopeft.searching.front import ParetoFront
from autopeft.searching.objective import Objective
from autopeft.searching.tables import sentences

OBJECTIVES = (Objective.of("accuracy"), Objective.of("trainable_params"))


def candidate(i: int) -> Candidate:
    return Candidate(Hybrid.uniform(TINY.layers, LoRA(i + 1)), {"learning_rate": 1e-3})


def seen(i: int, score: float, cost: int, **changes: Any) -> Evaluation:
    """An evaluation of a search whose seed is 0."""
    metrics = {"accuracy": score, "loss": 1 - score, "trainable_params": cost, "train_loss": 0.1}
    fields: dict[str, Any] = {"number": i, "seconds": 1.0, "curve": ({"loss": 1.0},), "metrics": metrics}
    return Evaluation(candidate(i), "done", **{**fields, **changes})


def run(seed: int, score: float, test: float | None = None, **changes: Any) -> Run:
    tested = {} if test is None else {"test_accuracy": test}
    return Run(seed, "done", {"accuracy": score, "loss": 1 - score, **tested}, 1.0, **changes)


class Memory:
    """What a study keeps beside its trials."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    def remember(self, name: str, value: Mapping[str, Any]) -> None:
        self.kept[name] = json.loads(json.dumps(value))

    def remembered(self, name: str) -> dict[str, Any] | None:
        return self.kept.get(name)


def front(*evaluations: Evaluation) -> ParetoFront:
    return ParetoFront(evaluations, OBJECTIVES, {"trainable_params": 1000})


def confirmed(
    evaluations: Sequence[Evaluation], runs: Mapping[int, Sequence[Run]], controls: Mapping[int, str] | None = None
) -> ParetoFront:
    memory: Any = Memory()
    names = {evaluations[i].key: name for i, name in (controls or {}).items()}
    keep_controls(memory, names, 100_000.0)
    keep_pack(memory, [(number, each) for number, own in runs.items() for each in own])
    return judged(front(*evaluations), memory.remembered)


def test_p_front_is_that_of_the_normal_distribution() -> None:
    losses = np.array([[-0.80, 1.0], [-0.82, 2.0], [-0.70, 3.0]])
    errors = np.array([[0.01, 0.0]] * 3)
    found = p_front(losses, errors, draws=8000)
    assert found[0] == 1
    assert found[1] == pytest.approx(stats.norm.cdf(0.02 / math.hypot(0.01, 0.01)), abs=0.01)
    assert found[2] == 0
    assert p_front(losses, 0 * errors, draws=3).tolist() == [1, 1, 0]


def test_few_seeds_borrow_the_deviation_of_all() -> None:
    groups = [[0.5, 0.6], [0.7, 0.7, 0.7], [0.4]]
    found = standard_errors(groups, prior=1.0)
    pooled = 0.005 / 3
    assert found[0] == pytest.approx(math.sqrt((4 * pooled + 0.005) / 5 / 2))
    assert found[2] == pytest.approx(math.sqrt(pooled))
    assert 0 < found[1] < found[0]
    assert standard_errors([[0.5]], prior=0.25).tolist() == [0.25]


def test_intervals_are_paired_by_seed() -> None:
    mine, theirs = {0: 0.90, 1: 0.92, 2: 0.95}, {0: 0.88, 1: 0.91, 2: 0.91}
    gain, low, high = difference(mine, theirs)
    expected = stats.ttest_rel(list(mine.values()), list(theirs.values())).confidence_interval(0.95)
    assert (gain, low, high) == pytest.approx((0.07 / 3, expected.low, expected.high))
    # No seed in common: Welch's.
    gain, low, high = difference(mine, {seed + 5: value for seed, value in theirs.items()})
    expected = stats.ttest_ind(list(mine.values()), list(theirs.values()), equal_var=False).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert difference({0: 1.0}, {0: 0.5}) == (0.5, None, None)
    assert difference({0: 1.0, 1: 1.0}, {0: 0.5, 1: 0.5}) == (0.5, 0.5, 0.5)


def test_intervals_of_few_seeds_borrow_the_deviation_of_all() -> None:
    # Two seeds that happen to be equal are no certainty where others differ: variances .0002 and .0008 of two seeds.
    groups = [[0.90, 0.90], [0.88, 0.88], [0.80, 0.82], [0.70, 0.74]]
    mine, theirs = ({0: group[0], 1: group[1]} for group in groups[:2])
    gain, low, high = difference(mine, theirs, groups)
    shared, pooled = 4 / 3, (0.0002 + 0.0008) / 4
    error = math.sqrt(shared * 2 * pooled / (shared + 1) / 2)
    half = stats.t.ppf(0.975, shared + 1) * error
    assert (gain, low, high) == pytest.approx((0.02, 0.02 - half, 0.02 + half))
    # Of other seeds: the same by Welch, whose two variances are shrunk each.
    _, low, high = difference(mine, {seed + 5: value for seed, value in theirs.items()}, groups)
    error = math.sqrt(2 * shared * pooled / (shared + 1) / 2)
    half = stats.t.ppf(0.975, 2 * (shared + 1)) * error
    assert (low, high) == pytest.approx((0.02 - half, 0.02 + half))


@pytest.mark.parametrize("rows", [100, 2000])
@pytest.mark.parametrize(("seeds", "count"), [(2, 6), (2, 12), (3, 6), (5, 3)])
def test_borrowed_intervals_are_narrower_and_cover_the_truth(rows: int, seeds: int, count: int) -> None:
    # Scores are shares of rows, and candidates deviate differently (by a factor of 1.5 at a standard deviation).
    rng, inside, width, alone = np.random.default_rng(1), 0, 0.0, 0.0
    for _ in range(1000):
        deviations = 0.01 * np.exp(0.4 * rng.standard_normal((count, 1)))
        groups = np.round((0.85 + deviations * rng.standard_normal((count, seeds))) * rows) / rows
        mine, theirs = (dict(enumerate(group.tolist())) for group in groups[:2])
        _, low, high = difference(mine, theirs, groups.tolist())
        _, own_low, own_high = difference(mine, theirs)
        assert None not in (low, high, own_low, own_high)
        inside += low <= 0 <= high
        width, alone = width + high - low, alone + own_high - own_low
    assert 0.93 <= inside / 1000 <= 0.99
    assert width < alone


def test_intervals_cover_the_truth() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        both = rng.normal(0, 0.02, 5)
        mine, theirs = (dict(enumerate(both + mean + rng.normal(0, 0.01, 5))) for mean in (0.85, 0.84))
        _, low, high = difference(mine, theirs)
        inside += low is not None and high is not None and low <= 0.01 <= high
    assert 0.92 <= inside / 400 <= 0.98


SEARCHED = (seen(0, 0.70, 10), seen(1, 0.90, 50), seen(2, 0.80, 40), seen(3, 0.60, 5))
OTHERS = {
    0: [run(1, 0.72, 0.70), run(2, 0.71, 0.72)],
    1: [run(1, 0.74, 0.75), run(2, 0.70, 0.76)],
    2: [run(1, 0.82, 0.81), run(2, 0.84, 0.82)],
}


def test_the_front_is_drawn_from_means_over_seeds() -> None:
    found = confirmed(SEARCHED, OTHERS)
    # The luckiest of the search is on it no more; what had no time is as it was.
    assert [e.number for e in found.points] == [3, 0, 2]
    assert found.best().number == 2
    point = found.to_json()["points"][2]
    assert (point["born"], point["parent"]) == ("trained", None)
    assert point["confirmed"]["seeds"] == 3
    assert point["confirmed"]["accuracy"] == pytest.approx({"mean": 0.82, "sd": 0.02})
    assert point["confirmed"]["test_accuracy"] == pytest.approx({"mean": 0.815, "sd": 0.005 * 2**0.5})
    assert 0.9 < point["confirmed"]["p_front"] <= 1
    assert "confirmed" not in found.to_json()["points"][0]
    optimism = ((0.70 - 0.71) + (0.90 - 0.78) + (0.80 - 0.82)) / 3
    assert found.to_json()["optimism"] == pytest.approx(optimism)
    assert "0.0300 better than over all seeds" in sentences(found)[-1]
    # The one that fell off is there with its mean.
    [off] = found.to_json()["confirmed_off_front"]
    assert (off["key"], off["confirmed"]["accuracy"]["mean"]) == (SEARCHED[1].key, pytest.approx(0.78))
    assert off.keys() == point.keys()
    again = ParetoFront.from_json(json.loads(json.dumps(found.to_json())))
    assert [e.key for e in again.points] == [e.key for e in found.points]
    assert again.to_json() == found.to_json()
    # The curve of the search is of what it has seen.
    assert found.hypervolume_curve() == front(*SEARCHED).hypervolume_curve()
    assert "0.820±0.020 (3)" in found.to_markdown()
    assert found.to_frame()["p_front"].notna().sum() == 2


def test_a_front_that_is_not_confirmed_is_what_it_was() -> None:
    plain = front(*SEARCHED)
    assert judged(plain, Memory().remembered) is plain
    assert plain.to_json().keys() == {"objectives", "budget", "points"}
    assert plain.to_json()["points"][0].keys() == {"number", "key", "metrics", "hybrid", "training"}


def test_what_fails_with_most_seeds_is_not_on_the_front() -> None:
    bad = [Run(1, "failed", {}, 1.0, "diverged"), Run(2, "failed", {}, 1.0, "diverged")]
    found = confirmed(SEARCHED, {**OTHERS, 2: bad})
    assert [e.number for e in found.points] == [3, 0, 1]


def gained(member: Sequence[float], control: Sequence[float]) -> ParetoFront:
    """A member of cost 50 and a control of cost 10 with these test scores by seed."""
    own = [seen(i, 0.8 + i / 100, cost) for i, cost in ((0, 10), (1, 50))]
    tested = [
        seen(i, 0.8 + i / 100, cost, metrics={**e.metrics, "test_accuracy": scores[0]})
        for i, cost, e, scores in ((0, 10, own[0], control), (1, 50, own[1], member))
    ]
    runs = {i: [run(s, 0.8 + i / 100, t) for s, t in enumerate(x) if s] for i, x in ((0, control), (1, member))}
    return confirmed(tested, runs, {0: "lora 1"})


def test_a_gain_is_named_with_its_interval() -> None:
    found = gained([0.91, 0.92, 0.93], [0.88, 0.90, 0.90])
    first, second = found.verdict.gains
    assert first.words == "at 10 trainable params (0.01%): nothing gained: use lora 1"
    mine, theirs = {0: 0.91, 1: 0.92, 2: 0.93}, {0: 0.88, 1: 0.90, 2: 0.90}
    gain, low, high = difference(mine, theirs, [list(mine.values()), list(theirs.values())])
    assert (second.gain, second.low, second.high) == pytest.approx((gain, low, high))
    assert low is not None
    assert low > 0
    assert second.words == (
        "at 50 trainable params (0.05%) the search gains +2.7 points (95% interval 0.8 to 4.5) "
        "over the best control, lora 1"
    )
    assert found.to_json()["controls"][0]["name"] == "lora 1"
    assert found.to_json()["controls"][0]["confirmed"]["seeds"] == 3
    assert found.to_json()["points"][0]["control"] == "lora 1"
    assert second.words[1:] in found.to_markdown()


def test_what_is_compared_is_measured_on_test() -> None:
    # Of two controls the one that looked worse in the search is the better one over seeds, and on no front.
    evaluations = [seen(0, 0.80, 80), seen(1, 0.795, 90), seen(2, 0.83, 85), seen(3, 0.90, 150)]
    runs = {n: [run(1, score, score), run(2, score, score)] for n, score in {0: 0.70, 2: 0.84, 3: 0.9}.items()}
    found = confirmed(evaluations, {**runs, 1: [run(1, 0.81), run(2, 0.81)]}, {0: "lora 1", 1: "lora 2"})
    assert [e.number for e in found.points] == [0, 2, 3]
    assert found.verdict.gains[2].words.endswith("not measured on test yet")
    assert [e.number for e in compared(found)] == [0, 1]
    assert compared(confirmed(evaluations, runs)) == ()


def test_nothing_gained_is_said_too() -> None:
    second = gained([0.90, 0.88, 0.92], [0.88, 0.91, 0.90]).verdict.gains[1]
    assert second.low is not None
    assert second.low < 0
    assert second.words == (
        "at 50 trainable params (0.05%): no sure gain (+0.3 points, 95% interval -4.4 to 5.1): use lora 1"
    )


def test_without_a_control_that_is_as_cheap_nothing_is_compared() -> None:
    own = (seen(0, 0.70, 10), seen(1, 0.90, 50))
    found = confirmed(own, {0: [run(1, 0.7, 0.7)], 1: [run(1, 0.9, 0.9)]}, {1: "lora 1"})
    assert next(g.words for g in found.verdict.gains).endswith("no control is as cheap")


def test_shares_have_two_digits() -> None:
    assert [in_share(s) for s in (0.0005, 0.000512, 0.01, 0.12, 0.0, 1.0)] == [
        "0.05%", "0.051%", "1%", "12%", "0%", "100%",
    ]  # fmt: skip


def test_exports_take_the_median_seed_or_the_one_that_is_asked_for() -> None:
    memory: Any = Memory()
    keep_pack(memory, [(2, run(1, 0.82)), (2, run(2, 0.84))])
    keep_tests(memory, [(2, 1, {"test_accuracy": 0.5})])
    found = judged(front(*SEARCHED), memory.remembered)
    pick = SEARCHED[2].key
    chosen = training_of(found, pick, None, None, memory.remembered)
    assert (chosen.seed, chosen.metrics["accuracy"], chosen.metrics["test_accuracy"]) == (1, 0.82, 0.5)
    assert chosen.metrics["trainable_params"] == 40
    assert training_of(found, pick, None, 0, memory.remembered) == SEARCHED[2]
    assert training_of(found, pick, None, 2, memory.remembered).seed == 2
    assert training_of(found, SEARCHED[0].key, None, None, memory.remembered) == SEARCHED[0]
    with pytest.raises(AutopeftError, match="trained with seeds 0, 1, 2, and not with seed 7; 'confirm"):
        training_of(found, pick, None, 7, memory.remembered)


def plan(evaluations: Sequence[Evaluation], members: Any = "auto", rows: int = 500) -> Plan:
    return Plan(front(*evaluations), (), members, [0, 1, 2], rows)


def test_members_are_the_front_and_what_is_near_it() -> None:
    near, far = seen(4, 0.795, 45), seen(5, 0.5, 50)
    assert plan([*SEARCHED, far]).members.keys() == {0, 1, 2, 3}
    assert plan([*SEARCHED, near, far]).members.keys() == {0, 1, 2, 3, 4}
    assert plan([seen(1, 0.80, 40), near, far]).members.keys() == {1, 4}
    assert plan([seen(1, 0.80, 40), near, far], rows=1_000_000).members.keys() == {1}
    assert plan([*SEARCHED, near, far], members=5).members.keys() == {0, 1, 2, 3, 4}
    assert len(plan([*SEARCHED, near, far], members=2).members) == 2


def test_every_member_has_one_other_seed_before_the_uncertain_have_more() -> None:
    evaluations = [seen(0, 0.5, 10), seen(1, 0.80, 40), seen(2, 0.81, 50)]
    found = plan(evaluations)
    assert [job.seed for _, job in found.wanted({})] == [1, 1, 1]
    runs = {0: [run(1, 0.5)]}
    assert [number for number, _ in found.wanted(runs)][-1] == 0
    runs |= {1: [run(1, 0.79)], 2: [run(1, 0.80)]}
    wanted = found.wanted(runs)
    assert {job.seed for _, job in wanted} == {2}
    # The cheapest is on the front for sure; the dearest may be dominated.
    assert wanted[0][0] == 2
    assert 2 not in dict(found.wanted(runs, [(2, 2)]))


def test_a_healed_candidate_is_healed_again_after_its_ancestors() -> None:
    large = seen(0, 0.7, 40)
    middle = seen(1, 0.8, 20, epochs=1, origin=Origin(large.key, "large-cut-20"))
    small = seen(2, 0.9, 10, epochs=1, origin=Origin(middle.key, "middle-cut-10"))
    found = plan([large, middle, small])
    # It dominates the others, and they are trained again for its sake.
    assert found.members.keys() == {2}
    assert found.all.keys() == {0, 1, 2}
    assert found.parent(2) == middle
    assert found.parent(0) is None
    assert found.wanted({}) == [(0, Job(large.candidate, 1, cuttable=True))]
    # The other seed waits for nothing.
    assert found.wanted({}, [(0, 1)]) == [(0, Job(large.candidate, 2, cuttable=True))]
    assert found.wanted({}, [(0, 1), (0, 2)]) == []
    runs = {0: [run(1, 0.7)]}
    own = Job(middle.candidate, 1, 1, Origin(large.key, "large-cut-20-seed1"), cuttable=True)
    assert found.wanted(runs) == [(1, own)]
    # Two other seeds for the three of them; the first of all is done, and not all of the rest may fit.
    assert found.outlook({}, 100) == (6, 6.0)
    assert found.outlook(runs, 100) == (5, 5.0)
    assert found.outlook(runs, 3.5) == (3, 3.0)
    runs |= {1: [run(1, 0.7)]}
    last = Job(small.candidate, 1, 1, Origin(middle.key, "middle-cut-10-seed1"))
    assert found.wanted(runs) == [(2, last)]
    # Where an ancestor has failed there is nothing to heal with that seed.
    assert found.wanted({0: [replace(run(1, 0.7), status="failed")]}) == [(0, Job(large.candidate, 2, cuttable=True))]


def test_what_is_trained_for_a_later_seed_comes_after_the_first_seeds_of_others() -> None:
    large, other = seen(0, 0.7, 40), seen(3, 0.5, 5)
    middle = seen(1, 0.8, 20, epochs=1, origin=Origin(large.key, "large-cut-20"))
    small = seen(2, 0.9, 10, epochs=1, origin=Origin(middle.key, "middle-cut-10"))
    found = plan([large, middle, small, other])
    assert found.members.keys() == {2, 3}
    # While others train the large one, and then the middle one, with the first other seed.
    assert [(n, job.seed) for n, job in found.wanted({}, [(0, 1)])] == [(3, 1), (0, 2)]
    assert [(n, job.seed) for n, job in found.wanted({0: [run(1, 0.7)]}, [(1, 1)])] == [(3, 1), (0, 2)]
    assert [(n, job.seed) for n, job in found.wanted({3: [run(1, 0.5)]}, [(0, 1)])] == [(0, 2), (3, 2)]


def test_a_healed_candidate_does_without_a_seed_whose_parent_cannot_be_cut_any_more() -> None:
    large = seen(0, 0.7, 40)
    small = seen(1, 0.9, 10, epochs=1, origin=Origin(large.key, "large-cut-10"))
    found = Plan(front(large, small), (), "auto", [0, 1, 2], 500, lambda parent, seed: seed == 2)
    runs = {0: [run(1, 0.7), run(2, 0.7)]}
    assert [(number, job.seed) for number, job in found.wanted(runs)] == [(1, 2)]
    assert found.outlook(runs, 100)[0] == 1
    # Where a parent does not fit in the time its child does not count.
    assert found.outlook({}, 0.5) == (0, 0.0)


def test_the_front_says_what_a_healed_one_has_with_all_seeds() -> None:
    healed = seen(0, 0.9, 10, epochs=1, origin=Origin("parent", "parent-cut"))
    done = confirmed([healed], {0: [run(1, 0.8)]})
    point = done.to_json()["points"][0]
    assert (point["born"], point["parent"]) == ("healed", "parent")
    assert point["confirmed"]["accuracy"]["mean"] == pytest.approx(0.85)


def looped(tmp_path: Path, seconds: float) -> tuple[ConfirmLoop, Any]:
    study = opened(tmp_path)
    return ConfirmLoop(study, plan([seen(0, 0.5, 10), seen(1, 0.8, 40), seen(2, 0.9, 50)]), seconds), study


def answer(loop: ConfirmLoop, pack: Sequence[Any], score: float = 0.6) -> None:
    told = {p.number: Evaluation(p.candidate, "done", {"accuracy": score}, seed=p.job.seed, seconds=1.0) for p in pack}
    loop.done(told)


def test_it_says_how_far_it_is(tmp_path: Path) -> None:
    loop, _ = looped(tmp_path, 4.5)
    heard: list[tuple[int, int, float]] = []
    loop._said = lambda *told: heard.append(told)
    loop.say()
    answer(loop, loop.next_pack(3))
    while pack := loop.next_pack(1):
        answer(loop, pack)
    # Three members and two other seeds would be six: four fit.
    assert heard[0] == (0, 4, 4.0)
    assert heard[1] == (3, 4, 1.0)
    assert heard[-1] == (4, 4, 0.0)


def test_packs_are_of_one_seed_and_a_kill_costs_what_runs(tmp_path: Path) -> None:
    loop, study = looped(tmp_path, 100)
    first, second = loop.next_pack(2), loop.next_pack(4)
    assert {p.job.seed for p in first} == {1}
    assert len({p.job.seed for p in second}) == 1
    assert not {(p.candidate.key, p.job.seed) for p in first} & {(p.candidate.key, p.job.seed) for p in second}
    answer(loop, first)
    again, _ = looped(tmp_path, 100)
    wanted = {(p.candidate.key, p.job.seed) for p in again.next_pack(9)}
    assert not wanted & {(p.candidate.key, p.job.seed) for p in first}
    loop.failed(second[0].number, "killed")
    kept = [each for own in runs_in(study.remembered).values() for each in own]
    assert [r.status for r in kept].count("failed") == 1
    assert [r.error for r in kept if r.error] == ["killed"]


def test_a_runner_that_had_to_wait_goes_on(tmp_path: Path) -> None:
    large = seen(0, 0.7, 40)
    small = seen(1, 0.9, 10, epochs=1, origin=Origin(large.key, "large-cut-10"))
    begun: list[int] = []
    confirmed = Plan(front(large, small), (), "auto", [0, 1], 500)
    loop = ConfirmLoop(opened(tmp_path), confirmed, 100, begin=lambda number, job: begun.append(number))
    pack = loop.next_pack(4, workers=2)
    assert loop.next_pack(4, workers=2) == []
    assert not loop.goes_on()
    loop.next_pack(4, workers=2)
    answer(loop, pack)
    assert loop.goes_on()
    assert not loop.goes_on()
    answer(loop, loop.next_pack(4, workers=2))
    assert begun == [0, 1]
    assert loop.next_pack(4, workers=2) == []
    assert not loop.goes_on()
    assert loop.is_over


def test_what_a_worker_was_killed_at_is_not_asked_for_again(tmp_path: Path) -> None:
    loop, study = looped(tmp_path, 100)
    asked = []
    while pack := loop.next_pack(9):
        assert len(asked) < 9
        asked += [(p.candidate.key, p.job.seed) for p in pack]
        loop.done({p.number: failed(p.job, "killed") for p in pack})
    assert len(asked) == len(set(asked)) == 6
    assert {r.seed for own in runs_in(study.remembered).values() for r in own} == {1, 2}
    # In a search as well: a source knows its training by its epochs and where it begins.
    healing = Job(candidate(0), 3, epochs=1, origin=Origin("abc", "abc-cut-10"))
    assert (failed(healing, "killed").job.name, failed(healing, "killed").seed) == (healing.name, 3)


def test_time_is_a_limit(tmp_path: Path) -> None:
    loop, study = looped(tmp_path, 2.5)
    pack = loop.next_pack(9)
    assert len(pack) == 2
    answer(loop, pack)
    assert not loop.is_over
    assert loop.next_pack(9) == []
    assert loop.is_over
    assert sum(len(own) for own in runs_in(study.remembered).values()) == 2


def test_a_score_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    loop, study = looped(tmp_path, 100)
    answer(loop, loop.next_pack(1), math.nan)
    [[failed]] = runs_in(study.remembered).values()
    assert (failed.status, failed.error) == ("failed", "accuracy is nan")


def test_what_is_off_the_front_is_not_surely_on_it() -> None:
    # One seed of #4, at less cost and with a better score than any other: by what is expected of it #2 is dominated.
    found = confirmed([*SEARCHED[:3], seen(4, 0.95, 30)], OTHERS)
    assert [e.number for e in found.points] == [0, 4]
    assert [e.number for e in found.confirmed_off_front] == [2, 1]
    sure = {n: known.p_front for n, known in found.verdict.confirmed.items()}
    assert sure[2] is not None
    assert sure[2] <= 0.5
    # Without #4 it is on it.
    alone = confirmed(SEARCHED[:3], OTHERS)
    assert [e.number for e in alone.points] == [0, 2]
    assert (alone.verdict.confirmed[2].p_front or 0) > 0.9


def test_who_stands_for_an_equal_one_is_said() -> None:
    found = confirmed([seen(0, 0.5, 10), seen(1, 1.0, 20), seen(2, 1.0, 20)], {n: [run(1, 1.0)] for n in (1, 2)})
    [off] = found.confirmed_off_front
    member = next(e for e in found.points if e.metrics["trainable_params"] == 20)
    assert found.verdict.confirmed[off.number].p_front == 1
    assert found.equal_to(off) is member
    assert found.equal_to(member) is None
    said = f"#{off.number} has the mean score and costs of #{member.number}, which stands on the front for both."
    assert said in sentences(found)
