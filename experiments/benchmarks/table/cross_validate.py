"""How well the interpolation foresees hybrids that it was not fitted to; a table for the README.

python experiments/benchmarks/table/cross_validate.py trec
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from table._interpolation import ENOUGH, cross_validated  # noqa: E402
from table.lookup import Table  # noqa: E402


def main(
    name: Annotated[str, typer.Argument(help="A table of this folder.")] = "trec",
    folds: Annotated[int, typer.Option(min=2)] = 10,
) -> None:
    table = Table.load(name)
    points, curves, seeds, residuals = table.measured
    predicted = cross_validated(table.features(points), curves, seeds, folds)
    noise = residuals[:, 1:].std(0) if len(residuals) >= ENOUGH else None
    print(f"{len(curves)} hybrids, {int(seeds.sum())} trainings, {folds} folds\n")
    print("| epoch | R2 | Kendall's tau | error (RMSE) | seeds (standard deviation) | R2 within reach |")
    print("| --- | --- | --- | --- | --- | --- |")
    for epoch, row in enumerate(accuracy(curves, predicted), 1):
        seen = "-" if noise is None else f"{noise[epoch - 1]:.3f}"
        reach = "-" if noise is None else f"{1 - noise[epoch - 1] ** 2 / curves[:, epoch - 1].var():.2f}"
        print(f"| {epoch} | {row[0]:.2f} | {row[1]:.2f} | {row[2]:.3f} | {seen} | {reach} |")


def accuracy(curves: np.ndarray, predicted: np.ndarray) -> list[tuple[float, float, float]]:
    """(R2, Kendall's tau, root mean squared error) by epoch."""
    from scipy.stats import kendalltau
    from sklearn.metrics import r2_score, root_mean_squared_error

    return [
        (float(r2_score(a, b)), float(kendalltau(a, b)[0]), float(root_mean_squared_error(a, b)))
        for a, b in zip(curves.T, predicted.T, strict=True)
    ]


if __name__ == "__main__":
    typer.run(main)
