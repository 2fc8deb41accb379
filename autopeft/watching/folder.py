"""A search as its run folder shows it, to another process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autopeft.candidate import Evaluation
from autopeft.config import parse
from autopeft.dimensions import ranges_of
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.searching.objective import Objective
from autopeft.searching.stored import FILE, Stored
from autopeft.space_spec import SpaceSpec
from autopeft.watching.now import Now
from autopeft.watching.picture import Picture, Terms


class Watched:
    """Reads a run folder again and again; the study only when its file has changed."""

    def __init__(self, run: Path, experiment: Experiment) -> None:
        self.run, self._experiment = run, experiment
        self._seen: tuple[tuple[int, int], Picture] | None = None

    def picture(self) -> Picture | None:
        """What was found so far; None before the study has begun."""
        try:
            status = (self.run / FILE).stat()
        except OSError:
            return None
        mark = status.st_mtime_ns, status.st_size
        if self._seen is None or self._seen[0] != mark:
            try:
                self._seen = mark, self._read()
            except AutopeftError:
                # It may be in the middle of a change; what was seen stands until the next look.
                if self._seen is None:
                    raise
        return self._seen[1]

    def now(self) -> Now:
        """What the search is doing; `ended` where nothing runs that has written it."""
        found = Now.read(self.run) or Now(phase="ended")
        if found.lives or found.phase in ("ended", "interrupted", "failed"):
            return found
        return found.model_copy(update={"phase": "interrupted", "running": (), "doing": (), "left": None})

    def _read(self) -> Picture:
        stored = Stored.load(self.run)
        header = stored.header()
        objectives = tuple(Objective(**objective) for objective in header["objectives"])
        space = parse(SpaceSpec, header["space"], f"{self.run / FILE}: space")
        terms = Terms(
            self._experiment.name,
            self._experiment.trials,
            self._experiment.training.epochs,
            objectives,
            header["budget"],
            ranges_of(space.ranges_as(header["space"].get("training")).training.dimensions),
        )
        evaluations: Sequence[Evaluation] = stored.evaluations()
        return Picture.of(terms, evaluations, stored.remembered)
