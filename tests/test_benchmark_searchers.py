"""The benchmark of searchers: surfaces, one simulated search, what is worked out, and that it goes on after a kill."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "experiments/benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import _searchers_report as report  # noqa: E402
import _searchers_volume as volume  # noqa: E402
import _surfaces  # noqa: E402
from _searchers_points import Points  # noqa: E402
from _searchers_run import CONTENDERS, Setting, simulate  # noqa: E402

SYNTHETIC = pytest.mark.parametrize("name", ["additive", "coupled"])


def point_of(on: Any, levels: int, rate: float, layer: int | None = None) -> dict[str, int | float]:
    """The same level of LoRA in one layer or in all."""
    names = [d.name for d in on.space.structure if ".lora." in d.name]
    chosen = {n for n in names if layer is None or n.startswith(f"L{layer:02}.")}
    return {d.name: levels if d.name in chosen else 0 for d in on.space.structure} | {"learning_rate": rate}


def final(on: Any, *points: dict[str, int | float]) -> list[float]:
    rows = np.array([[p[d.name] for d in on.space.dimensions] for p in points], dtype=float)
    return on.mean_of(rows)[:, -1].tolist()


# --- surfaces ---------------------------------------------------------------------------------------------------------


@SYNTHETIC
def test_synthetic_scores_are_what_they_say(name: str) -> None:
    on = _surfaces.surface(name)
    empty, low, deep = point_of(on, 0, 1e-3), point_of(on, 3, 1e-3, layer=0), point_of(on, 3, 1e-3, layer=11)
    assert final(on, empty) == [pytest.approx(on.floor)]
    scores = final(on, low, deep, point_of(on, 3, 1e-3), point_of(on, 3, 2e-4))
    assert on.floor < scores[0] < scores[1] < scores[2] < 1
    assert scores[3] < scores[2]


def test_the_best_rate_moves_on_one_surface_only() -> None:
    rates = np.exp(np.linspace(math.log(2e-4), math.log(5e-3), 50))
    best = {
        (name, level): rates[int(np.argmax(final(on, *(point_of(on, level, float(r)) for r in rates))))]
        for name in ("additive", "coupled")
        for on in [_surfaces.surface(name)]
        for level in (1, 6)
    }
    assert best["additive", 1] == best["additive", 6]
    assert best["coupled", 1] > best["coupled", 6]


@SYNTHETIC
def test_noise_belongs_to_the_point_and_the_seed(name: str) -> None:
    on = _surfaces.surface(name)
    point = point_of(on, 2, 1e-3)
    scores, losses = on.course(point, 1)
    np.testing.assert_array_equal(scores, on.course(dict(point), 1)[0])
    assert not np.array_equal(scores, on.course(point, 2)[0])
    assert scores.shape == losses.shape == (on.epochs,)
    rows = np.array([[point[d.name] for d in on.space.dimensions]], dtype=float)
    off = np.array([on.course(point, seed)[0] for seed in range(300)]) - on.mean_of(rows)
    assert np.abs(off.mean(0)).max() < 0.004
    assert 0.01 < off[:, -1].std() < 0.02
    assert np.corrcoef(off[:, -1], off[:, -2])[0, 1] > 0.4


@SYNTHETIC
def test_points_fit_the_budget(name: str) -> None:
    on, rng = _surfaces.surface(name), np.random.default_rng(0)
    points = Points(on.space, on.budget)
    rows = points.random(200, rng)
    near = points.neighbours(rows, 2, rng)
    for row in [*rows[:50], *near[:50]]:
        hybrid = on.space.decode(points.features.point(row)).hybrid
        assert 0 < hybrid.num_params(on.space.shape) <= on.budget.limits["trainable_params"]
    costs = np.log10(points.features.params(rows))
    assert np.ptp(costs) > 1.5


# --- one search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopping", ["none", "halving"])
def test_a_search_is_the_same_again(stopping: str) -> None:
    setting = Setting("random", "additive", 3, stopping, 14, 4)
    run, again = simulate(setting), simulate(setting)
    assert {k: v for k, v in run.items() if k != "ask"} == {k: v for k, v in again.items() if k != "ask"}
    on = _surfaces.surface("additive")
    assert len(run["cost"]) == len(run["ask"]) == 14
    assert max(run["cost"]) <= on.budget.limits["trainable_params"]
    for epochs, stopped, observed, end in zip(
        run["epochs"], run["stopped"], run["observed"], run["final"], strict=True
    ):
        assert stopped == (epochs < on.epochs)
        assert stopped or observed == end
    assert any(run["stopped"]) == (stopping == "halving")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qlognehvi", "qlognehvi_exact"])
def test_botorch_proposes_within_the_budget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("botorch")
    import _searchers_botorch
    import torch

    # As the benchmark runs: one core a search.
    monkeypatch.setattr(_searchers_botorch, "_FIT", {"options": {"maxiter": 5}})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for constant, value in {"RANDOM": 24, "NEAR": 24, "STEPS": 1, "SAMPLES": 8}.items():
        monkeypatch.setattr(_searchers_botorch, constant, value)
    run = simulate(Setting(name, "additive", 0, "none", 14, 2))
    torch.set_num_threads(threads)
    assert len(set(run["cost"])) > 7
    # The uniform start has sizes of all levels, not one level everywhere.
    start = simulate(Setting("random", "additive", 0, "none", 8, 2))
    assert start["cost"] == run["cost"][:8]
    assert max(run["cost"]) <= _surfaces.surface("additive").budget.limits["trainable_params"]


def test_a_warm_search_begins_with_the_front_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("botorch")
    import _searchers_run

    monkeypatch.setattr(_searchers_run, "SOURCE_TRIALS", 8)
    setting = Setting("known_cost_warm", "additive", 0, "none", 4, 4)
    source = simulate(Setting("known_cost", "coupled", 1_000, "none", 8, 4))
    front = volume.front_of(source["cost"], source["observed"])
    assert set(simulate(setting)["cost"]) <= set(front[:, 0])
    assert not set(simulate(Setting("known_cost", "additive", 0, "none", 4, 4))["cost"]) <= set(front[:, 0])


def test_contenders_that_are_not_installed_are_known() -> None:
    assert {"random", "tpe", "nsga2", "gp", "qlognehvi", "qlognehvi_exact", "known_cost"} <= CONTENDERS.keys()
    assert CONTENDERS["random"].is_here


# --- figures ----------------------------------------------------------------------------------------------------------


def run_of(costs: list[float], observed: list[float], true: list[float], stopped: list[bool]) -> dict[str, Any]:
    epochs = [3 if s else 6 for s in stopped]
    return {
        "cost": costs, "observed": observed, "final": observed, "true": true, "stopped": stopped, "epochs": epochs,
        "contender": "random", "stopping": "pareto", "ask": [0.1] * len(costs),
    }  # fmt: skip


def test_volumes_of_known_fronts() -> None:
    on = _surfaces.surface("additive")
    limit = on.budget.limits["trainable_params"]
    one = np.array([[limit / 10, -0.75]])
    assert volume.volume(one, on, "log") == pytest.approx(1.0 * (0.75 - on.floor))
    assert volume.volume(one, on, "linear") == pytest.approx(0.9 * limit * 0.75)
    # The empty hybrid, at a score that it can't have.
    least = on.budget.smallest(on.space)["trainable_params"]
    assert volume.volume(np.array([[0, -0.75]]), on, "log") == pytest.approx(
        math.log10(limit / least) * (0.75 - on.floor)
    )
    np.testing.assert_array_equal(volume.front_of([3, 1, 2, 2], [0.5, 0.1, 0.6, 0.6]), [[1, -0.1], [2, -0.6]])


def test_a_lucky_score_counts_with_its_true_one_and_a_stopped_trial_for_nothing() -> None:
    on = _surfaces.surface("additive")
    cost = on.budget.limits["trainable_params"] / 10
    best = np.array([[cost, -0.75]])
    run = run_of([cost] * 4, [0.4, 0.9, 0.8, 0.95], [0.5, 0.45, 0.75, 0.75], [False, False, False, True])
    np.testing.assert_allclose(volume.curve(run, on, best, "log"), [0.5, 0.4, 0.4, 0.4])
    assert volume.samples(run, on).tolist() == [6_000, 12_000, 18_000, 21_000]
    # Trained to its end, the stopped one would have been the front.
    assert volume.false_kills(run) == (1, 1)


def test_medians_with_searches_that_got_nowhere() -> None:
    assert report.median_band([3.0, 1.0, 2.0])[0] == 2.0
    assert report.median_band([1.0, math.inf, math.inf]) == (math.inf, 1.0, math.inf)
    on = _surfaces.surface("additive")
    cost = on.budget.limits["trainable_params"] / 10
    runs = [run_of([cost] * 2, [0.5, 0.7], [0.5, t], [False, False]) for t in (0.71, 0.75, 0.75)]
    (row,) = report.measure(runs, on, np.array([[cost, -0.75]]))
    assert row["trials_to"]["0.9"] == (2.0, 2.0, 2.0)
    assert row["samples_to"]["0.95"][0] == 12_000
    text = report.markdown([{**row, "trials_to": {**row["trials_to"], "0.95": (math.inf, 2.0, math.inf)}}])
    assert ">2 (2 to >2)" in text


def test_trials_to_where_the_rival_ends() -> None:
    on = _surfaces.surface("additive")
    cost = on.budget.limits["trainable_params"] / 10
    rival = run_of([cost] * 3, [0.5, 0.6, 0.7], [0.5, 0.6, 0.7], [False] * 3)
    ours = run_of([cost] * 3, [0.5, 0.72, 0.8], [0.5, 0.72, 0.8], [False] * 3)
    runs = [{**rival, "contender": "tpe", "stopping": "none"}, {**ours, "contender": "known_cost", "stopping": "none"}]
    rows = report.measure(runs, on, np.array([[cost, -0.9]]))
    assert [row["trials_to"]["tpe"][0] for row in rows] == [3.0, 2.0]
    assert rows[1]["samples_to"]["tpe"][0] == 12_000
    assert "| 2 / 12,000 |" in report.markdown(rows)


def test_a_noise_free_search_beats_a_random_one() -> None:
    on, rng = _surfaces.surface("additive"), np.random.default_rng(0)
    found = volume.noise_free(on, rounds=8, population=100)
    points = Points(on.space, on.budget)
    rows = points.random(1_500, rng)
    drawn = volume.front_of(points.features.params(rows), on.mean_of(rows)[:, -1])
    assert volume.volume(found, on, "log") > volume.volume(drawn, on, "log")


# --- the command ------------------------------------------------------------------------------------------------------


def test_it_goes_on_where_it_was_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from searchers import main

    def once() -> str:
        main(quick=True, contenders="random", out=tmp_path, stopping="none")
        return capsys.readouterr().out

    assert "2 searches, 2 of them to run" in once()
    store = tmp_path / "searchers.jsonl"
    first, second = store.read_bytes().splitlines(keepends=True)
    store.write_bytes(first + second[:50])
    assert "2 searches, 1 of them to run" in once()
    assert len(store.read_bytes().splitlines()) == 2
    results = json.loads((tmp_path / "searchers.json").read_text())
    assert results["settings"]["runs"][0]["seed"] == [0, 1]
    (row,) = results["results"]["rows"]
    assert row["seeds"] == 2
    assert (tmp_path / "searchers.png").stat().st_size > 10_000
    assert "| random | none | 2 x 12 |" in (tmp_path / "searchers.md").read_text()


@pytest.mark.parametrize("options", [{"contenders": "rendom"}, {"surfaces": "flat"}, {"limit": ["gp=3"]}])
def test_wrong_options(options: dict[str, Any], tmp_path: Path) -> None:
    import typer
    from searchers import main

    with pytest.raises(typer.BadParameter):
        main(quick=True, out=tmp_path, **options)
