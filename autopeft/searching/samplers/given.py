"""Points that are given, one after another: for comparing methods on the same candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from autopeft.doors import read_json_value
from autopeft.errors import AutopeftError, shown, suggest
from autopeft.searching.samplers._base import SamplerPlugin

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

    from autopeft.searching.problem import Problem

Given = Mapping[str, int | float]

#: Coordinates of all points.
_MOST_VALUES = 40_000


class GivenPlugin(SamplerPlugin):
    """The points in `file`, a JSON list of mappings (dimension to coordinate), or `points` themselves, in their order.

    Trial n gets point n. A point over the budget is repaired like any other proposal, and a candidate that was there
    already is moved.
    """

    name: ClassVar[str] = "given"
    description: ClassVar[str] = "the points of a JSON file, in their order: the same candidates for several methods"

    spread: ClassVar[bool] = False
    takes_prior: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    file: str | None = None
    points: tuple[dict[str, int | float], ...] = Field((), description="in place of a file")

    @field_validator("points")
    @classmethod
    def _some(cls, points: tuple[dict[str, int | float], ...]) -> tuple[dict[str, int | float], ...]:
        """They are written into the run folder's experiment, and must be few enough to be read there."""
        if (values := sum(map(len, points))) > _MOST_VALUES:
            raise ValueError(f"{values:,} coordinates; at most {_MOST_VALUES:,} can be given")
        return points

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, data: Any) -> Any:
        """A file's points are read here, so that a run folder does not depend on the file."""
        if not isinstance(data, Mapping) or data.get("file") is None:
            if isinstance(data, Mapping) and not data.get("points"):
                raise ValueError("give the points: 'file' names a JSON list of mappings from dimension to coordinate")
            return data
        if data.get("points"):
            raise ValueError("give 'file' or 'points', not both")
        return {**data, "file": None, "points": _read(Path(str(data["file"])))}

    def make(self, seed: int, problem: Problem) -> BaseSampler:
        """An Optuna sampler that looks the number of its proposal up."""
        from optuna.samplers import RandomSampler

        from autopeft.searching.proposed import own_number

        points = self.points

        class Lookup(RandomSampler):
            """Uniform for parameters of one's own objective only."""

            def sample_relative(self, study: Any, trial: Any, search_space: Mapping[str, BaseDistribution]) -> Any:
                # All of them at every proposal: what is wrong with the last one shows before the first is trained.
                for i, point in enumerate(points):
                    _check(point, search_space, f"sampler 'given': point {i}")
                number = own_number(study, trial)
                if number >= len(points):
                    raise AutopeftError(
                        f"sampler 'given': trial {trial.number} has no point, as there are {len(points)}; "
                        f"set trials to at most {len(points)}"
                    )
                return dict(points[number])

        return Lookup(seed=seed)


def _read(path: Path) -> Sequence[Any]:
    """The list in a JSON file; `ValueError`, for pydantic to place, when there is none."""
    try:
        points = read_json_value(path)
    except AutopeftError as error:
        raise ValueError(f"file: {error}") from None
    if not isinstance(points, list) or not points or not all(isinstance(p, dict) for p in points):
        raise ValueError(f"file: {path}: expected a list of mappings from dimension to coordinate, not empty")
    return points


def _check(point: Given, space: Mapping[str, BaseDistribution], where: str) -> None:
    """`AutopeftError` unless the point has a value in the domain for every dimension, and no other."""
    for name in point:
        if name not in space:
            raise AutopeftError(f"{where}: unknown dimension '{name}'; {suggest(str(name), space)}")
    for name, distribution in space.items():
        if name not in point:
            raise AutopeftError(f"{where}: dimension '{name}' is missing")
        if not distribution._contains(distribution.to_internal_repr(point[name])):
            raise AutopeftError(f"{where}: {name} = {shown(point[name])} is outside its domain")
