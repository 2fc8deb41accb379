"""A member of a front that was not trained with other seeds, beside some that were: a reader must not prefer luck."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_confirming import OTHERS, SEARCHED, confirmed, front, run, seen

from autopeft.reporting.drawings import front_drawing
from autopeft.searching.confirming.verdict import reported
from autopeft.searching.front import ParetoFront
from autopeft.searching.highlights import figures, highlights
from autopeft.searching.keys import short_keys
from autopeft.searching.plots import front_figure, save_front
from autopeft.searching.tables import columns, doubt, leaderboard, sentences, unconfirmed

#: By how much the others' searched scores were better than those of their other seeds, in the mean; and what one
#: training of theirs deviates by.
LUCK = ((0.70 - 0.715) + (0.90 - 0.72) + (0.80 - 0.83)) / 3
DEVIATION = ((0.0002 + 0.0224 + 0.0008) / 6) ** 0.5
MEAN = 0.82


def with_lucky(score: float, cost: int = 100) -> ParetoFront:
    """The dearest was not trained again: its score is that of one training among many."""
    return confirmed([*SEARCHED[:3], seen(4, score, cost)], OTHERS)


def test_its_score_is_less_the_luck_that_others_had() -> None:
    found = with_lucky(0.91)
    assert [e.number for e in found.points] == [0, 2, 4]
    spread = found.spread(found.points[-1], "accuracy")
    assert spread is not None
    assert (spread.mean, spread.sd) == pytest.approx((0.91 - LUCK, DEVIATION))
    assert found.loss_of(found.points[-1], found.score) == pytest.approx(LUCK - 0.91)
    assert [e.number for e in found.unconfirmed] == [4]
    # No luck is found where the others did better with their other seeds.
    worse = confirmed(SEARCHED[2:], {2: OTHERS[2]})
    assert worse.spread(worse.points[0], "accuracy").mean == 0.60  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("score", "best"),
    [
        # The searched score is the best of all, and less the luck it is the best too: but by less than it deviates.
        (0.91, 2),
        (MEAN + LUCK + DEVIATION - 0.001, 2),
        (MEAN + LUCK + DEVIATION + 0.001, 4),
    ],
)
def test_best_prefers_what_is_confirmed_within_the_deviation(score: float, best: int) -> None:
    found = with_lucky(score)
    assert found.best().number == found.pick("best").number == best
    again = ParetoFront.from_json(json.loads(json.dumps(found.to_json())))
    assert again.best().key == found.best().key


def test_the_knee_is_as_careful() -> None:
    points = [seen(0, 0.50, 10), seen(1, 0.74, 20), seen(2, 0.80, 60), seen(3, 0.85, 110)]
    runs = {
        n: [run(1, points[n].metrics["accuracy"] - 0.1), run(2, points[n].metrics["accuracy"] + 0.1)] for n in (0, 1, 2)
    }
    assert front(*points).knee().number == 1
    assert confirmed(points, runs).knee().number == 1
    del runs[1]
    # Without other seeds it might be worth a deviation less, and then more cost pays.
    assert confirmed(points, runs).knee().number != 1


def test_one_that_is_dominated_by_then_is_on_the_front_no_more() -> None:
    found = with_lucky(MEAN + LUCK - 0.001)
    assert [e.number for e in found.points] == [0, 2]
    assert (found.unconfirmed, unconfirmed(found)) == ((), None)


def test_the_best_is_reported_off_the_front_too() -> None:
    """A confirmed one is best where one that is not is expected to be better for less, but not by a deviation."""
    points = [seen(0, 0.70, 10), seen(1, 0.82, 100), seen(2, 0.811, 90)]
    found = confirmed(points, {0: [run(1, 0.72), run(2, 0.74)], 1: [run(1, 0.80), run(2, 0.80)]})
    assert ([e.number for e in found.points], found.best().number) == ([0, 2], 1)
    assert [e.number for e in reported(found)] == [0, 2, 1]
    assert reported(front(*points)) == front(*points).points
    assert reported(front()) == ()


def test_what_it_is_expected_to_dominate_is_hardly_on_the_true_front() -> None:
    points = [seen(0, 0.70, 10), seen(1, 0.82, 100), seen(2, 0.90, 90)]
    found = confirmed(points, {0: [run(1, 0.72), run(2, 0.74)], 1: [run(1, 0.80), run(2, 0.80)]})
    assert [e.number for e in found.points] == [0, 2]
    first, off = (found.verdict.confirmed[n].p_front for n in (0, 1))
    assert first is not None
    assert off is not None
    assert (first, off < 0.05) == (1.0, True)
    # By how much it deviates counts too.
    near = confirmed([*points[:2], seen(2, 0.811, 90)], {n: [run(1, 0.80), run(2, 0.83)] for n in (1,)})
    assert 0.1 < (near.verdict.confirmed[1].p_front or 0.0) < 0.9


def test_it_is_marked_wherever_the_front_is_shown(tmp_path: Path) -> None:
    found = with_lucky(0.91)
    lucky = found.points[-1]
    score = next(column for column in columns(found, found.points) if column.header == "accuracy")
    assert [cell.endswith("*") for cell in score.cells] == [False, False, True]
    assert score.cells[-1] == f"{0.91 - LUCK:.3f}±{DEVIATION:.3f}*"
    searched = next(column for column in columns(found, found.points) if column.header == "searched")
    assert searched.cells[-1] == "0.9100"
    assert any(cell.endswith("*") for column in leaderboard(found)[1] for cell in column.cells)
    said = sentences(found)[0]
    assert said.startswith("Not confirmed (*): 1 of the front's 3 members was trained with one seed")
    assert f"({LUCK:.4f})" in said
    point = found.to_json()["points"][-1]
    assert point["metrics"]["accuracy"] == 0.91
    assert point["unconfirmed"]["accuracy"] == pytest.approx({"mean": 0.91 - LUCK, "sd": DEVIATION})
    assert [("unconfirmed" in p, "confirmed" in p) for p in found.to_json()["points"][:2]] == [(False, True)] * 2
    assert "(1, not confirmed)" in found.to_markdown()
    assert said.replace("*", r"\*") in found.to_markdown()
    assert "Not confirmed" in found._repr_html_()
    seen_first = highlights(found, tmp_path)
    assert rf"±{DEVIATION:.3f}\*" in seen_first.note
    assert said.replace("*", r"\*") in seen_first.note
    assert figures(found)["unconfirmed"] == 1
    names = [trace.name for trace in front_figure(found).data]
    assert names == ["dominated", "front", "front, not confirmed"]
    save_front(found, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    drawing = str(front_drawing(found, short_keys(e.key for e in found.evaluations)))
    assert drawing.count("on open") == 2
    assert "not confirmed" in drawing
    assert f"{0.91 - LUCK:.4f} ± {DEVIATION:.4f} is to be expected" in (doubt(found, lucky) or "")


def test_nothing_is_marked_where_all_are_confirmed_or_none_is() -> None:
    for found in (confirmed(SEARCHED[:3], OTHERS), front(*SEARCHED)):
        assert (found.unconfirmed, unconfirmed(found)) == ((), None)
        assert not any(cell.endswith("*") for column in columns(found, found.points) for cell in column.cells)
        assert all(doubt(found, e) is None for e in found.points)
        assert "unconfirmed" not in json.dumps(found.to_json())
        assert [trace.name for trace in front_figure(found).data] == ["dominated", "front"]
