"""How a candidate of a search came about: its ancestors among the evaluations, as a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autopeft.candidate import Evaluation
from autopeft.recipe import Cut, Healing, Recipe, Trained
from autopeft.searching.descent import falling_cost, limit_of, parent_of
from autopeft.searching.objective import Objective

if TYPE_CHECKING:
    from autopeft.engine.settings import TrainingSettings


def recipe_of(
    chosen: Evaluation,
    evaluations: Sequence[Evaluation],
    objectives: Sequence[Objective],
    training: TrainingSettings,
    length: int,
) -> Recipe | None:
    """The steps from drawn weights to a training of a search with these settings, objectives and length of sequences.

    None where an ancestor is not among the evaluations.
    """
    line: list[Evaluation] = [chosen]
    limits: list[tuple[int, bool]] = []
    while (origin := line[0].origin) is not None:
        parent, known = parent_of(line[0], evaluations), limit_of(origin)
        if parent is None or known is None:
            return None
        line, limits = [parent, *line], [known, *limits]
    # With the seeds and epochs that the settings stand for.
    settings = [training.of(e.job) for e in line]
    begun = Trained(
        train=line[0].candidate.hybrid,
        training=dict(line[0].candidate.training),
        epochs=settings[0].epochs,
        # That of the chosen one: with another seed its ancestors had it too.
        seed=settings[-1].seed,
    )
    cost, cuts = falling_cost(objectives), []
    for evaluation, own, (limit, given) in zip(line[1:], settings[1:], limits, strict=True):
        hybrid = evaluation.candidate.hybrid
        cut = Cut(cost=cost, limit=limit, length=length, sizes="given" if given else "chosen", hybrid=hybrid)
        cuts.append((cut, Healing(training=dict(evaluation.candidate.training), epochs=own.epochs)))
    return Recipe(begun, tuple(cuts))
