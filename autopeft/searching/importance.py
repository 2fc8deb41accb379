"""How much of a score's variance comes from which dimensions, by two methods that share nothing but the data.

Shapes: N observations, D dimensions, G groups of dimensions, M rows of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autopeft.dimensions import Dimension

#: Rows of the sample that Sobol' indices are estimated from; a power of 2. Errors are about 0.01.
SAMPLE = 2048
_TREES = 64


def sobol_shares(
    model: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, groups: Sequence[Sequence[int]], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """First-order and total Sobol' indices [G], [G] of groups of columns, for a `model` of rows [M, D] -> [M].

    Columns are independent, each as it is distributed in `rows` [N, D]: costs that add up keep their mean, so that a
    sample lies where the budget has led the search. Of a group, the first order holds all that happens within it.
    Estimators: Saltelli et al. 2010, table 2 (b), and Jansen 1999, table 2 (f) there; scipy's. What sampling puts
    outside of 0..1 is clipped.
    """
    from scipy.stats import qmc, sobol_indices

    columns = rows.shape[1]
    unit = qmc.Sobol(2 * columns, rng=np.random.default_rng(seed)).random(SAMPLE)
    drawn = np.sort(rows, axis=0)[(unit * len(rows)).astype(int) % len(rows), np.tile(np.arange(columns), 2)]
    first, second = drawn[:, :columns], drawn[:, columns:]
    mixed = []
    # And of all columns, since scipy takes two groups at least.
    for group in [*groups, range(columns)]:
        changed = first.copy()
        changed[:, list(group)] = second[:, list(group)]
        mixed.append(model(changed))
    values = {"f_A": model(first)[None], "f_B": model(second)[None], "f_AB": np.array(mixed)[:, None]}
    if np.ptp(values["f_A"]) <= 1e-9 * (1 + np.abs(values["f_A"]).max()):
        return np.zeros(len(groups)), np.zeros(len(groups))
    found = sobol_indices(func=values, n=SAMPLE)
    alone, total = found.first_order[:-1].clip(0, 1), found.total_order[:-1].clip(0, 1)
    # A part with its interactions explains no less than alone, but for the sampling.
    return alone, np.maximum(alone, total)


def forest_shares(dimensions: Sequence[Dimension], unit: np.ndarray, scores: np.ndarray, seed: int = 0) -> np.ndarray:
    """First-order shares [D] of a random forest's variance over the whole box: functional ANOVA, Hutter et al. 2014.

    Optuna's. `unit` [N, D] holds what the forest sees, each column from 0 to 1; zeros where all scores [N] are equal.
    """
    from optuna.distributions import FloatDistribution
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.study import create_study
    from optuna.trial import create_trial

    if not np.ptp(scores):
        return np.zeros(len(dimensions))
    box: dict[str, FloatDistribution] = {d.name: FloatDistribution(0.0, 1.0) for d in dimensions}
    study = create_study()
    study.add_trials(
        [
            create_trial(
                params=dict(zip(box, map(float, row), strict=True)), distributions=dict(box), value=float(score)
            )
            for row, score in zip(unit.clip(0, 1), scores, strict=True)
        ]
    )
    found = FanovaImportanceEvaluator(n_trees=_TREES, seed=seed).evaluate(study)
    return np.array([found[name] for name in box]).clip(0, 1)


def forest_quality(unit: np.ndarray, scores: np.ndarray, seed: int = 0) -> float:
    """R2 of such a forest on what each tree has not seen (out of bag)."""
    import warnings

    from sklearn.ensemble import RandomForestRegressor

    with warnings.catch_warnings():
        # Of very few observations some are in the bag of all trees; they count as predicted by 0.
        warnings.simplefilter("ignore")
        forest = RandomForestRegressor(_TREES, oob_score=True, random_state=seed).fit(unit, scores)
    return float(forest.oob_score_)
