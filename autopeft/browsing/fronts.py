"""The fronts of several searches measured alike: one corner for all hypervolumes, scores under the same limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.result import SearchResult
from autopeft.searching.evenly import evenly
from autopeft.searching.front import ParetoFront
from autopeft.searching.tables import UNCONFIRMED, Column
from autopeft.wording import number

#: Costs at which the best scores are compared.
_LEVELS = 5


@dataclass(frozen=True)
class Named:
    """A search's front under the name of its folder."""

    name: str
    front: ParetoFront
    fingerprint: str


@dataclass(frozen=True)
class Fronts:
    """Fronts with the same objectives."""

    members: tuple[Named, ...]

    @classmethod
    def of(cls, runs: Sequence[Path]) -> Self:
        """Those in run folders; `AutopeftError` for fewer than two, an empty one, and for other objectives."""
        if len(runs) < 2:
            raise AutopeftError("compare-runs: give two run folders or more")
        results = [SearchResult.open(run) for run in runs]
        members = tuple(
            Named(name, result.front, str(result.header["fingerprint"]))
            for name, result in zip(_names([r.run_dir for r in results]), results, strict=True)
        )
        first = _terms(members[0].front)
        for run, one in zip(runs, members, strict=True):
            if not one.front.points:
                raise AutopeftError(f"{run}: no finished candidate is within its budget, so it has no front to compare")
            if _terms(one.front) != first:
                raise AutopeftError(
                    f"{run}: its objectives are {_terms(one.front)}, those of {runs[0]} are {first}; "
                    "fronts can be compared where they are the same"
                )
        return cls(members)

    @cached_property
    def corner(self) -> dict[str, float]:
        """Of all objectives the worst of the fronts' own corners, so that none is cut off by it."""
        found = {}
        for o in self.members[0].front.objectives:
            worst = max(o.loss(one.front.reference()[o.metric]) for one in self.members)
            found[o.metric] = o.loss(worst)
        return found

    @property
    def same_data(self) -> bool:
        """Whether all were measured on the same data."""
        return len({one.fingerprint for one in self.members}) == 1

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Of each search: its name, candidates, points, hypervolume in the common corner, best and knee."""
        return [self._row(one.name, one.front) for one in self.members]

    def _row(self, name: str, front: ParetoFront) -> dict[str, Any]:
        return {
            "run": name,
            "candidates": len(front.evaluations),
            "on_front": len(front.points),
            "hypervolume": front.hypervolume(self.corner, relative=True),
            **{pick: _said(front, getattr(front, pick)()) for pick in ("best", "knee")},
        }

    @cached_property
    def levels(self) -> list[dict[str, Any]]:
        """At a few costs that points of the fronts have, the best score of each search; none without a cost."""
        cost = self.members[0].front.cost
        if cost is None:
            return []
        values = sorted({e.metrics[cost.metric] for one in self.members for e in one.front.points})
        return [
            {"limit": limit, **{one.name: _under(one.front, limit) for one in self.members}}
            for limit in evenly(values, _LEVELS)
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data: rows, levels, the corner, and whether the data are the same."""
        return {"runs": self.rows, "levels": self.levels, "corner": self.corner, "same_data": self.same_data}

    def columns(self) -> list[Column]:
        """The rows for people."""
        front, rows = self.members[0].front, self.rows
        score, cost = front.score.metric, front.cost.metric if front.cost else None
        picked = [
            Column(f"{pick} {name}", [_cell(row[pick], name, score) for row in rows], rank)
            for pick, first in (("best", 0), ("knee", 2))
            for name, rank in ((score, first), (f"test_{score}", first + 1), (cost, first))
            if name is not None and any(name in row[pick] for row in rows)
        ]
        return [
            Column("run", [row["run"] for row in rows], left=True),
            Column("candidates", [f"{row['candidates']:,}" for row in rows], 3),
            Column("front", [f"{row['on_front']:,}" for row in rows], 4),
            Column("hypervolume", [number(row["hypervolume"]) for row in rows]),
            *picked,
        ]

    def level_columns(self) -> list[Column]:
        """The levels for people."""
        cost = self.members[0].front.cost
        named = [Column(one.name, [number(level[one.name]) for level in self.levels]) for one in self.members]
        return [Column(f"{cost.metric} <=" if cost else "", [number(level["limit"]) for level in self.levels]), *named]


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names; whole paths where two are called alike."""
    names = [folder.absolute().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _terms(front: ParetoFront) -> str:
    return ", ".join(f"{o.direction} {o.metric}" for o in front.objectives)


def _said(front: ParetoFront, evaluation: Evaluation) -> dict[str, Any]:
    """Key, objectives (over seeds, where there are several) and the test score."""
    own: dict[str, Any] = {"number": evaluation.number, "key": evaluation.key}
    own |= {o.metric: front.value_of(evaluation, o) for o in front.objectives}
    own |= {"unconfirmed": True} if evaluation in front.unconfirmed else {}
    test = f"test_{front.score.metric}"
    known = front.spread(evaluation, test)
    value = evaluation.metrics.get(test) if known is None else known.mean
    return own if value is None else {**own, test: value}


def _cell(picked: Mapping[str, Any], name: str, score: str) -> str:
    mark = UNCONFIRMED if name == score and picked.get("unconfirmed") else ""
    return number(picked.get(name)) + mark


def _under(front: ParetoFront, limit: float) -> float | None:
    """The best score at that cost or less."""
    assert front.cost is not None
    found = [front.loss_of(e, front.score) for e in front.points if e.metrics[front.cost.metric] <= limit]
    return front.score.loss(min(found)) if found else None
