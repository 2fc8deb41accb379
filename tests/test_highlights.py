"""What is seen first of a search: figures, names that sort, a description that begins with the front."""

from __future__ import annotations

import math
from pathlib import Path

from autopeft.candidate import Candidate, Evaluation
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.searching.confirming.values import Confirmed, Spread, Verdict
from autopeft.searching.front import ParetoFront
from autopeft.searching.highlights import STATE, figures, highlights
from autopeft.searching.objective import Objective
from autopeft.tracking._mlflow_values import Naming

RUN = Path("/runs/my search")


def evaluation(number: int, accuracy: float, cost: int, **metrics: float) -> Evaluation:
    candidate = Candidate(Hybrid.uniform(2, LoRA(number + 1)), {"learning_rate": 1e-3})
    found = {"accuracy": accuracy, "trainable_params": cost, **metrics}
    return Evaluation(candidate, "done", found, number=number, seconds=2.0)


def front_of(*evaluations: Evaluation) -> ParetoFront:
    return ParetoFront(evaluations, [Objective.of("accuracy"), Objective.of("trainable_params")])


def test_best_and_knee_in_figures_and_in_words() -> None:
    some = [evaluation(i, a, c) for i, (a, c) in enumerate(((0.5, 10), (0.78, 1000), (0.2, 2000)))]
    best = evaluation(3, 0.8, 100_000, test_accuracy=0.75)
    found = highlights(front_of(*some, best), RUN)
    assert found.metrics == {
        **{"best_accuracy": 0.8, "best_test_accuracy": 0.75, "best_trainable_params": 100_000},
        **{"knee_accuracy": 0.78, "knee_trainable_params": 1000},
    }
    assert (found.tags["best_key"], found.tags["knee_key"]) == (best.key, some[1].key)
    assert (found.tags["best_accuracy"], found.tags["best_trainable_params"]) == ("0.8000", "100,000")
    lines = found.note.replace("&emsp;", "").splitlines()
    assert lines[0].startswith("|  | no. | key | accuracy |")
    assert found.note.count("&emsp; |") == 4 * (lines[0].count("|") - 1), "pages leave no room between columns"
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["**best**", "**knee**", ""]
    assert "autopeft export '/runs/my search' --pick best --to out/best" in lines
    assert "autopeft export '/runs/my search' --pick knee --to out/knee" in lines


def test_candidates_with_several_seeds_have_their_means() -> None:
    one, two = evaluation(0, 0.5, 10), evaluation(1, 0.8, 100)
    scores = {"accuracy": Spread(0.45, 0.02), "test_accuracy": Spread(0.4, math.nan), "loss": Spread(1.0, 0.1)}
    verdict = Verdict({0: Confirmed(2, scores, 0.5)})
    front = ParetoFront([one, two], front_of(one).objectives, {}, verdict)
    found = highlights(front, RUN)
    assert found.over_seeds == {
        0: {"mean_accuracy": 0.45, "sd_accuracy": 0.02, "mean_test_accuracy": 0.4, "seeds": 2.0}
    }
    other = Verdict({0: Confirmed(3, scores, 0.5)})
    changed = highlights(ParetoFront([one, two], front.objectives, {}, other), RUN)
    assert changed.tags[STATE] != found.tags[STATE]


def test_the_state_changes_with_what_is_shown() -> None:
    one, two = evaluation(0, 0.5, 10), evaluation(1, 0.8, 100)
    states = [
        highlights(front_of(one), RUN).tags[STATE],
        highlights(front_of(one, two), RUN).tags[STATE],
        highlights(front_of(one, two), Path("/elsewhere")).tags[STATE],
        highlights(front_of(one, evaluation(1, 0.8, 100, test_accuracy=0.7)), RUN).tags[STATE],
    ]
    assert len(set(states)) == 4
    assert highlights(front_of(one), RUN).tags[STATE] == states[0]


def test_a_long_front_fits_into_a_tag() -> None:
    found = highlights(front_of(*(evaluation(i, 0.3 + i / 200, 10 + i * i) for i in range(60))), RUN)
    assert len(found.note) < 5000
    rows = [line for line in found.note.splitlines() if line.startswith("|")][2:]
    assert 10 <= len(rows) <= 18
    assert sum("**best**" in row for row in rows) == sum("**knee**" in row for row in rows) == 1
    assert f"{60 - len(rows)} more points of the front" in found.note


def test_without_a_point() -> None:
    found = highlights(front_of(), RUN)
    assert (found.metrics, list(found.tags)) == ({}, [STATE])
    assert found.note.startswith("No finished candidate")
    assert figures(front_of())["candidates"] == 0


def test_names_sort_by_score_then_cost() -> None:
    naming = Naming.of(
        [("accuracy", "maximize"), ("trainable_params", "minimize")], {"budget.trainable_params": 650000}
    )
    given = [evaluation(0, 0.75, 106_752), evaluation(1, 0.75, 9216), evaluation(2, 0.5, 650_000)]
    names = [naming(e) for e in given]
    assert names[1] == f"0.7500   9,216 #1 {given[1].key}"
    assert sorted(names) == [names[2], names[1], names[0]]
    failed = Evaluation(given[0].candidate, "failed", {"trainable_params": 5.0}, number=4)
    assert naming(failed) == f"failed       5 #4 {failed.key}"
    assert Naming.of([], {})(given[0]) == f"#0 {given[0].key}"
