"""What tracking is: a view of a search's evaluations in some other tool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from autopeft.candidate import Evaluation
from autopeft.config import Strict
from autopeft.searching.highlights import Highlights

#: Gives what an evaluation's candidate amounts to in a few numbers (or, of a comparison's row, words), by name.
Sizes: TypeAlias = Callable[[Evaluation], Mapping[str, int | float]]
Status: TypeAlias = Literal["FINISHED", "KILLED", "FAILED"]


@dataclass(frozen=True)
class Input:
    """What a search works on, its data or its model, without the thing itself.

    `digest` tells it from others of its name, `source` says where it is from, and `profile` its sizes.
    """

    name: str
    digest: str
    context: Literal["training", "model"]
    source: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchInfo:
    """What a tracker is told of a search when it begins or goes on.

    `search_id` is the run folder's own, and stays when the search is resumed. `params` (model, task, budget, ...) are
    flat. `objectives` are (metric, "maximize" or "minimize") pairs. `period`: when it began and ended, in seconds since
    1970, where it is told of afterwards.
    """

    name: str
    run_dir: Path
    search_id: str
    experiment_yaml: Path | None = None
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    objectives: Sequence[tuple[str, str]] = ()
    inputs: Sequence[Input] = ()
    period: tuple[float, float] | None = None


class Tracker(ABC):
    """An open view of one search; used by one thread at a time, not always the one that opened it.

    Invariants: what is given is the whole state, so every call may be repeated, and a call makes up for an earlier one
    that got lost. Trouble with the tool behind is a warning: after `Tracking.open` it never ends a search.
    """

    #: Where the view is stored; empty when nowhere.
    uri: str
    #: What the user types or opens to see it; empty when nowhere.
    url_hint: str

    @abstractmethod
    def sync(
        self,
        evaluations: Sequence[Evaluation],
        sizes: Sizes,
        on_front: Collection[str] | None = None,
        highlights: Highlights | None = None,
    ) -> None:
        """Log what is not logged yet; `on_front` are the keys on the Pareto front, None when not known now."""

    @abstractmethod
    def finish(
        self,
        evaluations: Sequence[Evaluation],
        on_front: Collection[str],
        files: Sequence[Path],
        hypervolume: Sequence[float],
        summary: Mapping[str, float],
        status: Status,
        highlights: Highlights | None = None,
    ) -> None:
        """Log the search's outcome and close it; it may be opened again.

        `files` go along as they are. `hypervolume[i]` is that after trial i.
        """


class Tracking(Strict):
    """Base of the kinds of tracking: a frozen configuration that `open` turns into a tracker."""

    name: ClassVar[str]
    description: ClassVar[str]

    @abstractmethod
    def open(self, search: SearchInfo) -> Tracker:
        """The tracker of a search, new or resumed; `AutopeftError` within seconds when there is no place for it."""
