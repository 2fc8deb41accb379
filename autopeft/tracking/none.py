"""No tracking: the run folder has it all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from autopeft.candidate import Evaluation
from autopeft.searching.highlights import Highlights
from autopeft.tracking._base import SearchInfo, Sizes, Status, Tracker, Tracking


class NoTracking(Tracking):
    """Tracks nothing."""

    name: ClassVar[str] = "none"
    description: ClassVar[str] = "nothing is tracked; the run folder has it all"

    def open(self, search: SearchInfo) -> Tracker:
        """A tracker that does nothing."""
        return _NoTracker()


class _NoTracker(Tracker):
    uri = ""
    url_hint = ""

    def sync(
        self,
        evaluations: Sequence[Evaluation],
        sizes: Sizes,
        on_front: Collection[str] | None = None,
        highlights: Highlights | None = None,
    ) -> None:
        """Nothing."""

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
        """Nothing."""
