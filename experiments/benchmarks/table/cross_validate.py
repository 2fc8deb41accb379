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
    measured, epochs = table.measured(), table.epochs
    predicted = cross_validated(table.features(measured.points), measured, folds)[:, :epochs]
    curves = measured.figures[:, :epochs]
    known = len(measured.residuals) >= ENOUGH
    print(f"{len(curves)} hybrids, {int(measured.seeds.sum())} trainings, {folds} folds\n")
    print("| epoch | R2 | Kendall's tau | error (RMSE) | between seeds (standard deviation) | R2 of a perfect one |")
    print("| --- | --- | --- | --- | --- | --- |")
    for e, (r2, tau, error) in enumerate(accuracy(curves, predicted)):
        noise = measured.residuals[:, e].std() if known else 0.0
        seen = f"{noise:.3f} | {1 - noise**2 / curves[:, e].var():.2f}" if known else "- | -"
        print(f"| {e + 1} | {r2:.2f} | {tau:.2f} | {error:.3f} | {seen} |")


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
