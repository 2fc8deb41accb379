from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.candidate import Candidate, Evaluation
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.searching.dominance import hypervolume, non_dominated
from autopeft.searching.front import ParetoFront
from autopeft.searching.objective import Objective

TWO = (Objective.of("accuracy"), Objective.of("trainable_params"))
Values = list[tuple[float, float]]


def evaluation(number: int, accuracy: float, params: float, **changes: Any) -> Evaluation:
    candidate = Candidate(Hybrid(((LoRA(number + 1),), ())), {"learning_rate": 1e-3})
    fields: dict[str, Any] = {"metrics": {"accuracy": accuracy, "trainable_params": params}, "status": "done"}
    return Evaluation(candidate, number=number, **(fields | changes))


def front_of(values: Values, limits: dict[str, int] | None = None) -> ParetoFront:
    return ParetoFront([evaluation(i, *v) for i, v in enumerate(values)], TWO, limits)


def vectors(front: ParetoFront) -> Values:
    return [(e.metrics["accuracy"], e.metrics["trainable_params"]) for e in front.points]


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] >= b[0] and a[1] <= b[1] and a != b


SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1), st.just(math.nan))
VALUES = st.lists(st.tuples(SCORES, st.integers(0, 12)), max_size=14)
STAIRS: Values = [(0.5, 10), (0.7, 20), (0.75, 60), (0.8, 100), (0.6, 50), (0.8, 120)]


@given(VALUES)
def test_front_equals_brute_force(values: Values) -> None:
    known = [v for v in values if not math.isnan(v[0])]
    expected = {v for v in known if not any(dominates(w, v) for w in known)}
    found = vectors(front_of(values))
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [p for _, p in found] == sorted(p for _, p in found)


@given(VALUES, st.randoms(use_true_random=False))
def test_front_does_not_depend_on_the_order(values: Values, random: Any) -> None:
    evaluations = [evaluation(i, *v) for i, v in enumerate(values)]
    shuffled = random.sample(evaluations, len(evaluations))
    assert ParetoFront(shuffled, TWO).to_json() == ParetoFront(evaluations, TWO).to_json()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=10))
def test_hypervolume_equals_counted_cells(losses: list[tuple[int, int]]) -> None:
    cells = itertools.product(range(6), range(6))
    counted = sum(any(a <= x and b <= y for a, b in losses) for x, y in cells)
    assert hypervolume(losses, (6, 6)) == counted


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=8))
def test_hypervolume_in_three_dimensions(losses: list[tuple[int, int, int]]) -> None:
    cells = itertools.product(range(4), repeat=3)
    counted = sum(any(all(v <= c for v, c in zip(row, cell, strict=True)) for row in losses) for cell in cells)
    assert hypervolume(losses, (4, 4, 4)) == counted


def test_non_dominated_of_nothing_and_of_nans() -> None:
    assert non_dominated([]).tolist() == []
    assert non_dominated([[math.nan, 0.0], [1.0, 1.0], [1.0, 1.0]]).tolist() == [False, True, True]


@given(
    st.lists(st.tuples(*[st.sampled_from([-math.inf, -0.0, 0.0, 1.0, 2.5, 7.0, math.inf, math.nan])] * 2), max_size=12)
)
def test_non_dominated_of_two_columns_is_that_of_any_number(losses: Values) -> None:
    # A third column of zeros takes the general path.
    wide = [(*row, 0.0) for row in losses]
    assert non_dominated(losses).tolist() == non_dominated(wide).tolist()


@settings(deadline=None)
@given(VALUES, VALUES)
def test_hypervolume_never_falls(values: Values, more: Values) -> None:
    reference = {"accuracy": 0.0, "trainable_params": 13.0}
    curve = front_of(values + more).hypervolume_curve(reference=reference)
    assert curve == sorted(curve)
    assert len(curve) == len(values + more)
    if values:
        assert curve[len(values) - 1] == pytest.approx(front_of(values).hypervolume(reference))


def test_hypervolume_and_its_reference() -> None:
    front = front_of([(0.5, 10), (0.8, 60)], {"trainable_params": 100})
    assert front.reference() == {"accuracy": 0.0, "trainable_params": 100}
    assert front.hypervolume() == pytest.approx(0.5 * 90 + 0.3 * 40)
    # The mean best score over all limits from 0 to the budget.
    assert front.hypervolume(relative=True) == pytest.approx(0.5 * 0.5 + 0.4 * 0.8)
    assert front.hypervolume({"trainable_params": 60}) == pytest.approx(0.5 * 50)
    assert front_of([(0.5, 10), (0.4, 70)]).reference()["trainable_params"] == 70
    assert front.hypervolume_curve() == front.hypervolume_curve(front.evaluations) == pytest.approx([45, 57])
    assert front_of([]).hypervolume() == 0.0
    assert front_of([(math.nan, 1)]).hypervolume_curve() == [0.0]


def test_only_finished_evaluations_within_the_budget_count() -> None:
    evaluations = [
        evaluation(0, 0.9, 10, status="failed"),
        evaluation(1, 0.8, 200),
        evaluation(2, 0.5, 50),
        evaluation(3, 0.9, 10, metrics={"trainable_params": 10}),
    ]
    front = ParetoFront(evaluations, TWO, {"trainable_params": 100})
    assert [e.number for e in front.points] == [2]
    assert front.hypervolume_curve()[:2] == [0.0, 0.0]


def test_of_equal_ones_the_smallest_key_stays() -> None:
    evaluations = [evaluation(i, 0.5, 10) for i in range(5)]
    assert [e.key for e in ParetoFront(evaluations, TWO).points] == [min(e.key for e in evaluations)]


def test_json_layout_and_round_trip() -> None:
    front = front_of(STAIRS, {"trainable_params": 113569})
    data = json.loads(json.dumps(front.to_json()))
    assert data["objectives"] == [
        {"metric": "accuracy", "direction": "max"},
        {"metric": "trainable_params", "direction": "min"},
    ]
    assert data["budget"] == {"trainable_params": 113569}
    assert list(data["points"][0]) == ["number", "key", "metrics", "hybrid", "training"]
    assert data["points"][0]["key"] == front.points[0].key
    again = ParetoFront.from_json(data)
    assert again.to_json() == data
    assert [e.candidate for e in again.points] == [e.candidate for e in front.points]


def test_frame_and_markdown() -> None:
    front = front_of(STAIRS)
    frame = front.to_frame()
    assert list(frame.columns) == ["number", "key", "accuracy", "trainable_params", "learning_rate", "hybrid"]
    assert frame["trainable_params"].tolist() == [10, 20, 60, 100]
    assert frame["hybrid"][0] == "lora 1 q,v in 0"
    table = front.to_markdown().splitlines()
    assert (
        table[0] == "| no. | key | accuracy | trainable_params | learning_rate | hybrid (sizes, in how many layers) |"
    )
    assert table[2] == f"| #0 | {front.points[0].key} | 0.5000 | 10 | 1.00e-03 | lora 1 in 1 |"
    assert list(front_of([]).to_frame().columns) == ["number", "key", "hybrid"]
    assert "No finished candidate" in front_of([]).to_markdown()


def test_best_and_knee_and_pick() -> None:
    front = front_of(STAIRS)
    assert front.best().number == 3
    assert front.best({"trainable_params": 60}).number == 2
    assert front.knee().number == 1
    assert front.pick("best", max_params=99).number == 2
    assert front.pick("knee").number == 1
    for point in front.points:
        assert front.pick(point.key) is point
        assert front.pick(point.key[:6]) is point
    # A dominated one is found by its key too.
    assert front.pick(front.done[4].key).number == 4


def test_best_under_a_limit_on_what_is_no_objective() -> None:
    sizes = [{"accuracy": a, "trainable_params": p, "stored_bytes": b} for a, p, b in [(0.9, 5, 900), (0.8, 9, 100)]]
    front = ParetoFront([evaluation(i, 0, 0, metrics=m) for i, m in enumerate(sizes)], TWO)
    assert front.best().number == 0
    assert front.best({"stored_bytes": 100}).number == 1


@pytest.mark.parametrize(
    ("which", "most", "message"),
    [
        ("best", 5, "nothing has trainable_params <= 5; the least is 10"),
        ("bst", None, "no candidate 'bst'; give 'best', 'knee', or a number or key of the front: #0 "),
        ("", None, "no candidate ''"),
    ],
)
def test_a_wrong_pick(which: str, most: int | None, message: str) -> None:
    with pytest.raises(AutopeftError, match=message):
        front_of(STAIRS).pick(which, most)


def test_a_key_that_is_not_unique() -> None:
    front = front_of([(i / 40, i) for i in range(40)])
    letters = sorted(e.key[0] for e in front.points if e.key[0].isalpha())
    first = next(c for c, group in itertools.groupby(letters) if len(list(group)) > 1)
    with pytest.raises(AutopeftError, match=f"'{first}' is not unique"):
        front.pick(first)


def test_an_empty_front() -> None:
    front = front_of([(math.nan, 1)])
    assert front.points == ()
    with pytest.raises(AutopeftError, match="front: empty"):
        front.best()
    with pytest.raises(AutopeftError, match="no candidate 'abc'"):
        front.pick("abc")


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_one_objective(metric: str) -> None:
    objective = Objective.of(metric)
    evaluations = [evaluation(i, 0, 0, metrics={metric: v}) for i, v in enumerate([0.3, 0.9, 0.1])]
    front = ParetoFront(evaluations, [objective])
    assert [e.number for e in front.points] == [1 if metric == "accuracy" else 2]
    assert front.best() == front.knee() == front.pick("best") == front.points[0]
    assert front.hypervolume() == pytest.approx(0.9 if metric == "accuracy" else 0.8)


@pytest.mark.parametrize("values", [STAIRS, [(0.5, 10)], []], ids=["many", "one", "none"])
def test_plots(values: Values, tmp_path: Path) -> None:
    front = front_of(values, {"trainable_params": 1000})
    figure = front.plot()
    assert [len(trace.x) for trace in figure.data] == [len(front.done) - len(front.points), len(front.points)]
    assert "front" in figure.to_html(include_plotlyjs=False)
    front.still(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_plots_of_one_objective(tmp_path: Path) -> None:
    front = ParetoFront([evaluation(i, i / 3, 1) for i in range(3)], TWO[:1])
    assert front.plot().layout.xaxis.title.text == "candidate"
    front.still(tmp_path / "front.png")


def test_the_knee_ignores_the_scale_of_the_axes() -> None:
    rng = np.random.default_rng(0)
    values = [(float(a), float(p)) for a, p in zip(np.sort(rng.random(9)), np.sort(rng.random(9)), strict=True)]
    knee = front_of(values).knee().number
    assert front_of([(10 * a - 3, 1e6 * p + 5) for a, p in values]).knee().number == knee
