"""Every stopping rule, and what a search shows to it; nothing is trained."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import costs
from test_study import OBJECTIVES, evaluated, opened

from autopeft.candidate import failed
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods.sequential import Sequential
from autopeft.searching.courses import Courses
from autopeft.searching.loop import SearchLoop
from autopeft.searching.objective import Objective
from autopeft.searching.stopping import STOPPING, Course, StoppingPlugin, stopping_from

EPOCHS = 4
#: Quick to stop, so that a few courses show something.
EAGER: dict[str, dict[str, Any]] = {"pareto": {"startup": 4, "confidence": 0.6}, "halving": {"startup": 2}}
ALL = pytest.mark.parametrize("name", STOPPING.names())
Status = Literal["running", "done", "stopped"]


def rule(name: str, **options: Any) -> StoppingPlugin:
    return stopping_from({"name": name, **EAGER.get(name, {}), **options})


def course(number: int, cost: float, *scores: float, status: Status = "running") -> Course:
    return Course(number, (cost,), tuple((s,) for s in scores), tuple(1 - s for s in scores), status)


def finished(count: int, noise: float = 0.0, cost: float = 1.0) -> list[Course]:
    """Courses that rise by 0.1 an epoch; the noise of their ends has nothing to do with their beginnings."""
    found = []
    for n in range(count):
        start = 0.2 + 0.3 * (n // 4) / max(1, count // 4 - 1)
        last = start + 0.3 + (noise if n % 4 in (0, 3) else -noise)
        found.append(course(n, cost, start, start + 0.1, start + 0.2, last, status="done"))
    return found


@st.composite
def searches(draw: st.DrawFn) -> list[Course]:
    """Courses of few different costs and scores, with or without costs, of one or two scores."""
    rng = random.Random(draw(st.integers(0, 10**6)))
    dear, judged = rng.randrange(3), rng.randrange(1, 3)
    found = []
    for n in range(rng.randrange(25)):
        status: Any = rng.choice(["running", "done", "done", "stopped"])
        length = EPOCHS if status == "done" else rng.randrange(1, EPOCHS + (status == "running"))
        scores = tuple(tuple(rng.randrange(9) / 8 for _ in range(judged)) for _ in range(length))
        own = tuple(float(rng.randrange(4)) for _ in range(dear))
        found.append(Course(n, own, scores, tuple(rng.random() for _ in scores), status))
    return found


# --- every rule ------------------------------------------------------------------------------------------------------


@ALL
@settings(max_examples=60)
@given(courses=searches())
def test_only_what_is_beaten_in_the_middle_of_its_training_is_stopped(name: str, courses: list[Course]) -> None:
    stopped = rule(name).stop(courses, EPOCHS)
    by_number = {c.number: c for c in courses}
    for number in stopped:
        chosen = by_number[number]
        assert chosen.status == "running"
        assert 0 < chosen.epoch < EPOCHS
        others = [c for c in courses if c.number != number and c.epoch >= chosen.epoch]
        assert any(c.no_dearer(chosen) and c.no_worse(chosen, chosen.epoch) for c in others)


@ALL
@settings(max_examples=40)
@given(courses=searches(), seed=st.integers(0, 100))
def test_the_order_of_the_courses_does_not_matter(name: str, courses: list[Course], seed: int) -> None:
    shuffled = list(courses)
    random.Random(seed).shuffle(shuffled)
    assert rule(name).stop(shuffled, EPOCHS) == rule(name).stop(courses, EPOCHS)


@ALL
def test_of_few_courses_none_is_stopped(name: str) -> None:
    assert stopping_from(name).stop([], EPOCHS) == set()
    assert stopping_from(name).stop([course(0, 1, 0.1), *finished(2)[1:]], EPOCHS) == set()


@ALL
def test_a_rule_that_says_so_never_stops(name: str) -> None:
    """And the others do, where one is far behind."""
    stopped = rule(name).stop([*finished(12), course(99, 2.0, 0.0)], EPOCHS)
    assert stopped == ({99} if rule(name).stops else set())


@ALL
def test_cheaper_and_better_candidates_go_on(name: str) -> None:
    running = [course(99, 0.5, 0.0), course(100, 2.0, 0.6)]
    assert rule(name).stop([*finished(12), *running], EPOCHS) == set()


@ALL
def test_without_costs_the_scores_alone_decide(name: str) -> None:
    courses = [replace(c, costs=()) for c in [*finished(12), course(99, 0.5, 0.0)]]
    assert rule(name).stop(courses, EPOCHS) == ({99} if rule(name).stops else set())


@ALL
def test_with_two_scores_the_best_in_one_goes_on(name: str) -> None:
    def two(c: Course, sign: float) -> Course:
        return replace(c, scores=tuple((s, sign * s) for (s,) in c.scores))

    known = [two(c, 1) for c in finished(12)]
    assert rule(name).stop([*known, two(course(99, 2.0, 0.0), 1)], EPOCHS) == ({99} if rule(name).stops else set())
    other = replace(course(99, 2.0, 0.0), scores=((0.0, 0.9),))
    assert rule(name).stop([*known, other], EPOCHS) == set()


def test_rules_by_name() -> None:
    assert stopping_from(None) == stopping_from("pareto") == stopping_from({})
    assert stopping_from({"name": "halving", "factor": 3}).model_dump()["factor"] == 3
    with pytest.raises(AutopeftError, match="stopping: unknown stopping rule 'median'"):
        stopping_from("median")
    with pytest.raises(AutopeftError, match="confidence"):
        stopping_from({"confidence": 1.0})
    assert all(kind.description for kind in STOPPING.all().values())


# --- pareto ----------------------------------------------------------------------------------------------------------

RUNNING = [course(100 + i, 2.0, 0.2 + 0.01 * i) for i in range(31)]


def test_more_noise_stops_less() -> None:
    found = [
        rule("pareto", confidence=0.99).stop([*finished(24, noise), *RUNNING], EPOCHS) for noise in (0.01, 0.05, 0.2)
    ]
    assert len(found[0]) > len(found[1]) > len(found[2])
    assert found[0] > found[1] > found[2]


def test_more_confidence_stops_less() -> None:
    found = [rule("pareto", confidence=c).stop([*finished(24, 0.05), *RUNNING], EPOCHS) for c in (0.8, 0.99, 0.9999)]
    assert found[0] > found[1] > found[2]


def test_nothing_is_stopped_before_enough_have_ended() -> None:
    courses = [*finished(12), course(99, 2.0, 0.0)]
    assert rule("pareto", startup=12).stop(courses, EPOCHS) == {99}
    assert rule("pareto", startup=13).stop(courses, EPOCHS) == set()
    ended_early = [replace(c, status="stopped", scores=c.scores[:2], losses=c.losses[:2]) for c in finished(12)]
    assert rule("pareto", startup=12).stop([*ended_early, course(99, 2.0, 0.0)], EPOCHS) == set()


def test_it_looks_at_its_rungs_only() -> None:
    one, two = course(98, 2.0, 0.0), course(99, 2.0, 0.0, 0.0)
    assert rule("pareto").stop([*finished(12), one, two], EPOCHS) == {98, 99}
    assert rule("pareto", rungs=(2, 3)).stop([*finished(12), one, two], EPOCHS) == {99}


def test_scores_that_are_all_the_same_are_no_trouble(recwarn: pytest.WarningsRecorder) -> None:
    same = [course(n, 1.0, *[0.5] * EPOCHS, status="done") for n in range(12)]
    rule("pareto").stop([*same, course(99, 2.0, 0.5), course(100, 0.5, 0.5)], EPOCHS)
    assert 100 not in rule("pareto").stop([*same, course(100, 0.5, 0.5)], EPOCHS)
    assert list(recwarn) == []


# --- halving ---------------------------------------------------------------------------------------------------------


def test_halving_keeps_the_better_half_at_each_rung() -> None:
    running = [course(n, 1.0, n / 10) for n in range(8)]
    assert rule("halving").stop(running, EPOCHS) == {0, 1, 2, 3}
    assert rule("halving", factor=4).stop(running, EPOCHS) == {0, 1, 2, 3, 4, 5}
    later = [course(n, 1.0, 0.5, n / 10) for n in range(4)]
    assert rule("halving").stop(later, EPOCHS) == {0, 1}
    assert rule("halving", factor=3).stop(later, EPOCHS) == set(), "its rungs are 1 and 3"
    assert rule("halving", first=2).stop(running, EPOCHS) == set()


def test_halving_ranks_by_dominance() -> None:
    front = [course(n, 1.0 + n, n / 10) for n in range(6)]
    assert rule("halving").stop(front, EPOCHS) == set()
    behind = [course(10 + n, 1.5 + n, n / 10) for n in range(6)]
    assert rule("halving").stop([*front, *behind], EPOCHS) == {10, 11, 12, 13, 14, 15}


# --- what a search shows ---------------------------------------------------------------------------------------------


class Below(StoppingPlugin):
    """Stops what is below 0.5, and remembers what it was shown."""

    name: ClassVar[str] = "below"
    description: ClassVar[str] = ""
    seen: list[list[Course]] = []

    def stop(self, courses: Sequence[Course], epochs: int) -> set[int]:
        self.seen.append(sorted(courses, key=lambda c: c.number))
        return {c.number for c in courses if c.status == "running" and c.epoch < epochs and c.scores[-1][0] < 0.5}


def point(epoch: int, accuracy: float) -> dict[str, float]:
    return {"epoch": epoch, "accuracy": accuracy, "loss": 1 - accuracy, "train_loss": 0.0}


def searching(tmp_path: Path, epochs: int = EPOCHS) -> tuple[SearchLoop, Below]:
    below = Below(seen=[])
    return SearchLoop(opened(tmp_path), costs, trials=20, stopping=below, epochs=epochs), below


def test_a_rule_sees_the_whole_search_and_stops_in_the_pack_that_asks(tmp_path: Path) -> None:
    loop, below = searching(tmp_path)
    first, second = loop.next_pack(2), loop.next_pack(2)
    assert loop.epoch({p.number: point(1, 0.1) for p in first}) == {0, 1}
    assert loop.epoch({2: point(1, 0.7), 3: point(1, 0.2)}) == {3}
    assert loop.epoch({2: point(2, 0.8)}) == set()
    assert [(c.number, c.status, c.epoch) for c in below.seen[-1]] == [
        (0, "stopped", 1),
        (1, "stopped", 1),
        (2, "running", 2),
        (3, "stopped", 1),
    ]
    seen = below.seen[-1][2]
    assert seen.scores == ((0.7,), (0.8,))
    assert seen.losses == pytest.approx((0.3, 0.2))
    assert seen.costs == (costs(second[0].candidate.hybrid)["trainable_params"],)
    loop.done({2: evaluated(second[0], curve=tuple(point(e, 0.9) for e in range(1, EPOCHS + 1)))})
    loop.failed(0, "killed")
    loop.next_pack(1)
    loop.epoch({4: point(1, 0.9)})
    assert [(c.number, c.status) for c in below.seen[-1]] == [
        (1, "stopped"),
        (2, "done"),
        (3, "stopped"),
        (4, "running"),
    ]


def test_epochs_that_are_seen_again_begin_the_course_anew(tmp_path: Path) -> None:
    loop, below = searching(tmp_path)
    loop.next_pack(2)
    loop.epoch({0: point(1, 0.6), 1: point(1, 0.1)})
    loop.epoch({0: point(2, 0.7)})
    assert loop.epoch({0: point(1, 0.8), 1: point(1, 0.9)}) == set()
    assert [(c.status, c.scores) for c in below.seen[-1]] == [("running", ((0.8,),)), ("running", ((0.9,),))]


def test_a_resumed_search_knows_the_courses(tmp_path: Path) -> None:
    study = opened(tmp_path)
    for status, epochs in (("done", EPOCHS), ("stopped", 2), ("failed", 0)):
        told = evaluated(study.ask(), status=status, curve=tuple(point(e, 0.4) for e in range(1, epochs + 1)))
        study.tell(told)
    loop, below = searching(tmp_path)
    loop.next_pack(1)
    loop.epoch({3: point(1, 0.9)})
    assert [(c.number, c.status, c.epoch) for c in below.seen[-1]] == [
        (0, "done", EPOCHS),
        (1, "stopped", 2),
        (3, "running", 1),
    ]


def test_a_score_that_is_no_number_is_not_judged(tmp_path: Path) -> None:
    loop, below = searching(tmp_path)
    loop.next_pack(2)
    assert loop.epoch({0: point(1, math.nan), 1: point(1, 0.9)}) == set()
    assert [c.number for c in below.seen[-1]] == [1]


@pytest.mark.parametrize("epochs", [1, EPOCHS])
def test_where_nothing_can_be_stopped_nobody_is_asked(tmp_path: Path, epochs: int) -> None:
    below = Below(seen=[])
    assert Courses(below, OBJECTIVES, epochs).may_stop == (epochs > 1)
    assert not Courses(stopping_from("none"), OBJECTIVES, epochs).may_stop
    loop = SearchLoop(opened(tmp_path), costs, stopping=below, epochs=1)
    loop.next_pack(1)
    assert loop.epoch({0: point(1, 0.0)}) == set()
    assert below.seen == []


def test_scores_are_turned_so_that_larger_is_better(tmp_path: Path) -> None:
    below = Below(seen=[])
    courses = Courses(below, [Objective.of("loss"), Objective.of("trainable_params"), Objective.of("accuracy")], EPOCHS)
    courses.begin(0, {"trainable_params": 7})
    courses.epoch(0, point(1, 0.25))
    courses.stop([0])
    assert below.seen == [[Course(0, (7,), ((-0.75, 0.25),), (0.75,), "running")]]
    courses.end(replace(failed(evaluated(opened(tmp_path).ask()).candidate, "x"), number=0))
    courses.stop([])
    assert below.seen[-1] == []


def test_of_what_is_to_be_cut_one_rate_is_left() -> None:
    courses = Courses(Below(seen=[]), OBJECTIVES, EPOCHS)
    large, small = Hybrid.uniform(2, Sequential(bottleneck=64)), Hybrid.uniform(2, Sequential(bottleneck=1))
    for number, score, hybrid in ((1, 0.1, large), (2, 0.3, large), (3, 0.2, large), (4, 0.4, small)):
        courses.begin(number, {"trainable_params": 1000}, hybrid, to_cut=hybrid is large)
        courses.epoch(number, point(1, score))
    # One of them runs in another pack.
    assert courses.stop([1, 4]) == {1, 4}
    assert courses.stop([2, 3]) == {3}
    courses.epoch(2, point(2, 0.1))
    assert courses.stop([2]) == set()
