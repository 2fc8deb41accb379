"""What can be known to be wrong with a recipe on a model, before anything is trained."""

from __future__ import annotations

from autopeft.doors import within
from autopeft.engine.company import Company
from autopeft.errors import AutopeftError
from autopeft.export_folder import sizes_of
from autopeft.following.opening import Opened
from autopeft.session import Session


def check(opened: Opened, session: Session) -> None:
    """`AutopeftError` where the recipe is not for the session's model, or cannot be trained as it says."""
    _check_sizes(opened, session)
    recipe, shape = opened.recipe, session.shape
    steps = [(recipe.first.train, recipe.first.epochs), *((cut.hybrid, heal.epochs) for cut, heal in recipe.cuts)]
    for hybrid, epochs in steps:
        with within(opened.where):
            hybrid.check(shape)
            hybrid.check_room(shape)
            # What a method divides into phases needs as many epochs.
            Company.of(hybrid).epochs(epochs)
        session.check_positions(hybrid.input_tokens, opened.where)


def _check_sizes(opened: Opened, session: Session) -> None:
    """Limits on costs are those of one shape: on another they would mean something else."""
    there, here = dict(opened.sizes), sizes_of(session.shape)
    there.setdefault("layers", len(opened.recipe.first.train.layers))
    differ = [
        f"{name} {there[name]} there, {size} here" for name, size in here.items() if there.get(name, size) != size
    ]
    if differ:
        raise AutopeftError(
            f"{opened.where}: is for a model of other sizes than '{session.source.name}' ({'; '.join(differ)}); "
            "take a model of its sizes, or search on this one"
        )
