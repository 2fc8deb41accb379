"""Recipes from where they are given: an export, its `hybrid.json`, a hybrid as JSON or as a value.

Such a file may come from a stranger: it is data, and model, task and settings are those of the user's experiment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from autopeft.candidate import Candidate
from autopeft.doors import read_json, within
from autopeft.errors import AutopeftError, shown
from autopeft.hybrid import Hybrid
from autopeft.recipe import FILE, Recipe

if TYPE_CHECKING:
    import torch

    from autopeft.engine.settings import TrainingSettings
    from autopeft.engine.setup import Setup
    from autopeft.exporting import Engine

_REMEDY = f"give a folder that 'autopeft export' wrote, its {FILE}, or the JSON of a hybrid"
#: Settings that come from the experiment; what a recipe's own were is said where it differs.
_OTHERS = (
    "batch_size",
    "batch_tokens",
    "max_length",
    "weight_decay",
    "warmup",
    "max_grad_norm",
    "head",
    "head_learning_rate",
)


@dataclass(frozen=True)
class Opened:
    """A recipe, where it was given, and what is known of its model and training: nothing of a hybrid alone."""

    recipe: Recipe
    where: str
    settings: TrainingSettings | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    engine: Engine | None = None

    @property
    def fixed(self) -> Self:
        """The same with its last hybrid trained from drawn weights."""
        return replace(self, recipe=self.recipe.fixed)

    def training(self, given: TrainingSettings) -> TrainingSettings:
        """An experiment's settings, with the epochs of the first step and the recipe's own rates."""
        own = {"epochs": self.recipe.first.epochs}
        # A candidate's rate means nothing without what its methods make of it.
        rates = ("learning_rate", "method_rates") if self.settings else ()
        return given.model_copy(update={**own, **{name: getattr(self.settings, name) for name in rates}})

    def setup_for(self, given: TrainingSettings, device: torch.device) -> Setup:
        """How the recipe's search computed, where that is what is asked for on this device; else what is usual."""
        from autopeft.engine.backbone import choose_precision
        from autopeft.engine.setup import Setup, precision_of

        known = self.engine
        same = known and known.device == str(device) and given.precision in ("auto", known.precision)
        if known and same:
            precision = precision_of(known.precision, known.attention)
        else:
            precision = choose_precision(given.precision, device)
        return Setup.unmeasured(str(device), precision)

    def remark(self, given: TrainingSettings) -> str | None:
        """In which settings an experiment differs from what the recipe was found with; None where in none."""
        if self.settings is None:
            return None
        pairs = [(name, getattr(self.settings, name), getattr(given, name)) for name in _OTHERS]
        differ = [f"{name} {there} there, {now} here" for name, there, now in pairs if there != now]
        return f"the recipe was found with other settings: {'; '.join(differ)}" if differ else None


def opened(given: str | Path | Hybrid | Candidate | Recipe, training: TrainingSettings) -> Opened:
    """What is given as a recipe; seed and epochs of a hybrid alone are those of the settings.

    `AutopeftError` for a file that holds something else.
    """
    if isinstance(given, Recipe):
        return Opened(given, "recipe")
    if isinstance(given, Hybrid):
        given = Candidate(given)
    if isinstance(given, Candidate):
        return Opened(_plain(given.hybrid.to_json(), given.training, training, "recipe"), "recipe")
    if not isinstance(given, (str, Path)):
        raise AutopeftError(f"recipe: expected a path, a hybrid or a recipe, not {shown(given)}")
    path = Path(given) / FILE if os.path.isdir(given) else Path(given)
    if not os.path.exists(path):
        what = f"it has no {FILE}" if os.path.isdir(given) else "there is no such file or folder"
        raise AutopeftError(f"{given}: no recipe here ({what}); {_REMEDY}")
    data, where = read_json(path, _REMEDY), str(path)
    if "layers" in data:
        with within(where):
            return Opened(_plain(data, {}, training, where), where)
    if "hybrid" in data and "settings" in data:
        return _recorded(data, where)
    raise AutopeftError(f"{where}: neither what an export says of itself nor a hybrid ({{'layers': ...}}); {_REMEDY}")


def _plain(hybrid: Any, rates: Mapping[str, float], settings: TrainingSettings, where: str) -> Recipe:
    step = {"train": hybrid, "training": dict(rates), "epochs": settings.epochs, "seed": settings.seed}
    return Recipe.from_json([step], where)


def _recorded(data: Mapping[str, Any], where: str) -> Opened:
    """The recipe of an export; of an older one, which has none, that of a training from drawn weights."""
    from autopeft.exporting import Record

    record = Record.of(data, where)
    settings = record.settings_of(where)
    if "recipe" in data:
        recipe = Recipe.from_json(data["recipe"], f"{where}: recipe")
    else:
        own = settings.model_copy(update={"seed": record.seed})
        recipe = _plain(record.searched or record.hybrid, record.training, own, where)
    return Opened(recipe, where, settings, record.model.sizes, record.engine)
