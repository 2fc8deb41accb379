"""What a comparison knows so far: one JSON file, written whole after every training."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autopeft.config import explain
from autopeft.doors import door, read_json
from autopeft.engine.setup import Setup
from autopeft.errors import AutopeftError
from autopeft.searching.identity import differences, listed
from autopeft.writing import replacing

FILE = "comparison.json"


class _Value(BaseModel):
    # Not frozen: a comparison grows. Nothing that is kept is infinite.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_assignment=True)


class Training(_Value):
    """One training: its learning rate and seed, the validation metrics after its last epoch, or why there are none.

    `test` is filled in for the chosen rate only.
    """

    learning_rate: float
    seed: int
    validation: dict[str, float] = {}
    test: dict[str, float] = {}
    error: str | None = None


class Entry(_Value):
    """One contender: its trainings at the rates of the grid, those at the chosen rate, and what it costs.

    `key` is of what was trained under that name.
    """

    key: str = ""
    tuning: list[Training] = []
    learning_rate: float | None = None
    trainings: list[Training] = []
    costs: dict[str, float | None] = {}
    error: str | None = None

    def choose(self, rate: float) -> None:
        """Set the rate; trainings at another one, chosen before a failed one was tried again, are forgotten."""
        if self.learning_rate not in (None, rate):
            self.trainings, self.costs = [], {}
        self.learning_rate = rate

    def of_seeds(self, seeds: Sequence[int]) -> list[Training]:
        """Its trainings with these seeds at the chosen rate, as far as there are any."""
        return [t for t in self.trainings if t.seed in seeds]

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """The seeds that it is not trained with at the chosen rate, or that failed."""
        return [seed for seed in seeds if seed not in {t.seed for t in self.trainings if not t.error}]

    def finished(self, seeds: Sequence[int]) -> bool:
        """Whether nothing is left to do for these seeds."""
        return self.error is None and bool(self.costs) and not self.missing(seeds)

    def forget_failures(self) -> None:
        """An entry that failed begins again where it failed."""
        self.tuning = [t for t in self.tuning if not t.error]
        self.trainings = [t for t in self.trainings if not t.error]
        self.error = None


class State(_Value):
    """The whole: what it is a comparison of (`terms`), how it trains, and its entries by name."""

    id: str = Field(default_factory=lambda: uuid.uuid4().hex, max_length=32)
    terms: dict[str, Any]
    setup: Setup | None = None
    entries: dict[str, Entry] = {}


class Store:
    """The state in a folder."""

    def __init__(self, folder: Path, state: State) -> None:
        self.path, self.state = folder / FILE, state

    @classmethod
    def open(cls, folder: Path, terms: Mapping[str, Any]) -> Self:
        """What the folder holds, or a new state; `AutopeftError` when that is a comparison on other terms."""
        path = folder / FILE
        if not path.is_file():
            return cls(folder, State(terms=dict(terms)))
        remedy = "restore a copy of it, or use a new folder"
        data = read_json(path, remedy)
        try:
            state = State.model_validate(data)
        except ValidationError as error:
            raise AutopeftError(f"{explain(error, State, str(path))}; {remedy}") from None
        if differ := listed(differences("", state.terms, terms)):
            raise AutopeftError(
                f"{folder}: holds another comparison: {differ}; give another folder (out), or delete this one"
            )
        return cls(folder, state)

    def entry(self, name: str, key: str) -> Entry:
        """The contender's entry; a new one where there is none, or where that name meant something else."""
        entry = self.state.entries.get(name)
        if entry is None or entry.key != key:
            entry = self.state.entries[name] = Entry(key=key)
        return entry

    def save(self) -> None:
        """Write it: after that a kill costs nothing of what is in it."""
        write(self.path, lambda partial: partial.write_text(self.state.model_dump_json(indent=1) + "\n", "utf-8"))


def write(path: Path, save: Callable[[Path], object]) -> None:
    """A file of the folder, whole or not at all."""
    remedy = f"what is finished is in {FILE}: mend that, and give the same command again"
    with door(path, "cannot be written", remedy), replacing(path) as partial:
        save(partial)
