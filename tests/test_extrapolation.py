"""Final scores, told from the beginnings of curves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autopeft.searching.extrapolation import Extrapolation

EPOCHS = 4


def curves(count: int, noise: float, seed: int = 0) -> list[list[float]]:
    """Half of the way after the first epoch, and noise at the end."""
    rng = np.random.default_rng(seed)
    ends = rng.random(count)
    return [[e / 2, e * 0.7, e * 0.9, e + noise * rng.normal()] for e in ends]


def test_the_regression_is_found() -> None:
    fit = Extrapolation.fit(curves(50, 0.01), EPOCHS)
    for epoch, score in ((1, 0.25), (2, 0.35), (3, 0.45)):
        mean, sd = fit.final(epoch, score)
        assert mean == pytest.approx(0.5, abs=0.01)
        assert sd == pytest.approx(0.01, rel=0.5)


def test_more_noise_is_more_uncertain_and_so_is_what_was_never_seen() -> None:
    sds = [Extrapolation.fit(curves(40, noise), EPOCHS).final(1, 0.25)[1] for noise in (0.01, 0.05, 0.2)]
    assert sds == sorted(sds)
    fit = Extrapolation.fit(curves(10, 0.05), EPOCHS)
    assert fit.final(1, 3.0)[1] > fit.final(1, 0.25)[1]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_few_curves_tell_nothing(count: int) -> None:
    assert Extrapolation.fit(curves(count, 0.01), EPOCHS).final(2, 0.3) == (0.3, math.inf)


def test_after_the_last_epoch_the_score_is_known() -> None:
    assert Extrapolation.fit([], EPOCHS).final(EPOCHS, 0.3) == (0.3, 0.0)


def test_curves_that_did_not_end_are_left_out() -> None:
    whole = curves(20, 0.01)
    others = [curve[:2] for curve in curves(20, 0.5, seed=1)] + [[0.1, 0.1, math.nan, 0.9]]
    assert Extrapolation.fit([*others, *whole], EPOCHS).final(1, 0.2) == Extrapolation.fit(whole, EPOCHS).final(1, 0.2)
    assert Extrapolation.fit(whole, EPOCHS).final(1, math.nan)[1] == math.inf


def test_what_stands_beside_the_score_helps() -> None:
    """An accuracy that has not begun to rise, with a loss that has."""
    rng = np.random.default_rng(0)
    ends = rng.random(30)
    alone = Extrapolation.fit([[0.1, 0.1, 0.1, e] for e in ends], EPOCHS)
    beside = Extrapolation.fit([[(0.1, 1 - e / 9), (0.1, 1 - e / 5), (0.1, 1 - e), (e, 0.0)] for e in ends], EPOCHS)
    assert alone.final(1, 0.1)[1] > 0.2
    mean, sd = beside.final(1, (0.1, 1 - 0.8 / 9))
    assert mean == pytest.approx(0.8, abs=0.01)
    assert sd < 0.05


def test_the_noise_is_that_of_like_curves() -> None:
    """What lies low stays there; what is higher ends anywhere."""
    rng = np.random.default_rng(0)
    starts = rng.random(80)
    fit = Extrapolation.fit([[s, s, s, s + (0.2 if s > 0.5 else 0.002) * rng.normal()] for s in starts], EPOCHS)
    assert fit.final(1, 0.1)[1] < 0.5 * fit.final(1, 0.9)[1]
    assert fit.final(1, 0.9)[1] == pytest.approx(0.2, rel=0.3)
