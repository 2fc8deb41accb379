"""What a report is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from autopeft.candidate import Evaluation
from autopeft.experiment import Experiment
from autopeft.plugins import command_line
from autopeft.recipe import Recipe
from autopeft.run_folder import RunFolder
from autopeft.searching.confirming.records import Remembered
from autopeft.searching.explanation import Explanation
from autopeft.searching.front import ParetoFront
from autopeft.searching.keys import short_keys
from autopeft.searching.stored import Stored
from autopeft.task_facts import TaskFacts


@dataclass(frozen=True)
class Searched:
    """A search as its run folder has it.

    `recipe` gives the steps to a candidate, `unexplained` says why there is no `explanation`.
    """

    folder: RunFolder
    experiment: Experiment
    front: ParetoFront
    evaluations: Sequence[Evaluation]
    finished: bool
    stored: Stored
    recipe: Callable[[Evaluation], Recipe | None]
    explanation: Explanation | None = None
    unexplained: str = ""

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def remembered(self) -> Remembered:
        """What the study keeps under a name beside its trials."""
        return self.stored.remembered

    @cached_property
    def facts(self) -> TaskFacts | None:
        """Of the task, where the run folder has them."""
        return TaskFacts.kept(self.run, None)

    @cached_property
    def keys(self) -> dict[str, str]:
        """Keys in short."""
        return short_keys(e.key for e in self.evaluations)

    def command(self, verb: str, *rest: str) -> str:
        """A command on the run folder, as a shell takes it."""
        return command_line(verb, self.run, *rest)
