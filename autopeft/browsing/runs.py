"""The run folders in a folder: how each search is getting on, and the best that it has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.searching.tables import Column
from autopeft.wording import number

State = Literal["running", "finished", "stopped", "not begun", "unreadable"]


@dataclass(frozen=True)
class Run:
    """A search in a few words. `best` is the score of the best candidate (over seeds, where there are several)."""

    folder: Path
    state: State
    candidates: int = 0
    trials: int | None = None
    metric: str = ""
    best: float | None = None
    key: str = ""
    number: int | None = None
    changed: datetime | None = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        changed = None if self.changed is None else self.changed.isoformat(timespec="seconds")
        return {**vars(self), "folder": str(self.folder), "changed": changed}


def folders_in(folder: Path) -> list[Path]:
    """Folders of searches directly in it, by name; `AutopeftError` when it cannot be read."""
    with door(folder):
        return sorted(path.parent for path in folder.glob("*/experiment.yaml") if path.is_file())


def run_of(folder: Path) -> Run:
    """What stands in a run folder; whatever is wrong with it is said, not raised."""
    run = RunFolder(folder)
    begun, running = run.study_file.is_file(), run.is_running
    changed = datetime.fromtimestamp((run.study_file if begun else run.experiment_file).stat().st_mtime).astimezone()
    if not begun:
        return Run(folder, "running" if running else "not begun", changed=changed)
    try:
        result = SearchResult(run)
        front, trials, count = result.front, result.experiment.trials, len(result.evaluations)
        state: State = "running" if running else "finished" if result.finished else "stopped"
    except AutopeftError as error:
        return Run(folder, "running" if running else "unreadable", changed=changed, error=str(error))
    found = Run(folder, state, count, trials, front.score.metric, changed=changed)
    if not front.points:
        return found
    best = front.best()
    score = front.value_of(best, front.score)
    return Run(folder, state, count, trials, front.score.metric, score, best.key, best.number, changed)


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """A table of them for people."""
    return [
        Column("run", [run.folder.name for run in runs], left=True, least=12),
        Column("state", [run.state for run in runs], left=True),
        Column("candidates", [_count(run) for run in runs]),
        Column("best", [number(run.best) for run in runs]),
        Column("metric", [run.metric for run in runs], 1, left=True),
        Column("key", [run.key if run.number is None else f"#{run.number} {run.key}" for run in runs], 3, left=True),
        Column("changed", ["" if r.changed is None else f"{r.changed:%Y-%m-%d %H:%M}" for r in runs], 2, left=True),
    ]


def _count(run: Run) -> str:
    return f"{run.candidates:,}" if run.trials is None else f"{run.candidates:,} of {run.trials:,}"
