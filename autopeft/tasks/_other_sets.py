"""Further test sets of a task: what was trained on its rows is measured on theirs, such as those of other languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

from autopeft.config import as_spec
from autopeft.doors import within
from autopeft.errors import AutopeftError, shown
from autopeft.tasks._base import Task
from autopeft.tasks._data import Split, TaskData
from autopeft.tasks._other_file import data_of_file
from autopeft.tasks._registry import task_from
from autopeft.tasks.files import names_a_file

#: Labels in a message.
_SHOWN = 5


def set_from(value: Any) -> str | Task:
    """A file with the task's columns, or another task; `AutopeftError` for what is neither."""
    if isinstance(value, Task) or (isinstance(value, str) and names_a_file(value)):
        return value
    return task_from(value, "evaluate_on")


#: In a configuration: files or tasks, by names of one's own.
OtherSets = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")],
        Annotated[
            str | Task,
            BeforeValidator(set_from),
            PlainSerializer(lambda value: value if isinstance(value, str) else as_spec(value)),
        ],
    ],
    Field(min_length=1, max_length=100),
]


def others_of(sets: Mapping[str, str | Task], task: Task, data: TaskData) -> dict[str, TaskData]:
    """Each set's test rows as test split, labelled and scored as those of the task, whose data are given.

    Train and validation are the same rows, as no split may be empty. `AutopeftError` with the set's name, and the row's
    place where it is one's, for labels that are not the task's.
    """
    found = {}
    for name, other in sets.items():
        where = f"evaluate_on.{name}"
        with within(where):
            found[name] = _agreeing(_loaded(other, task, data), data, where)
        for metric in found[name].metrics:
            if f"{name}_{metric}" in data.metrics:
                raise AutopeftError(f"{where}: '{name}_{metric}' is a metric of the task; give the set another name")
    return found


def _loaded(other: str | Task, task: Task, data: TaskData) -> TaskData:
    if isinstance(other, str):
        return data_of_file(task, Path(other), data.readout, data.metrics, "the classes of the task")
    return other.load()


def _agreeing(other: TaskData, data: TaskData, where: str) -> TaskData:
    """The other's test with the task's readout, and those metrics of the task that its rows have."""
    mine, theirs = data.readout, other.readout
    traits = [(kind.given, kind.masks, kind.encodes) for kind in (mine, theirs)]
    if not isinstance(mine, type(theirs)) or traits[0] != traits[1]:
        raise AutopeftError(
            f"{where}: is of {theirs.called}, and the task of {mine.called}; name a set of the same kind"
        )
    metrics = tuple(metric for metric in data.metrics if type(theirs).fits(metric) and not theirs.complaint(metric))
    if not metrics:
        raise AutopeftError(
            f"{where}: {', '.join(data.metrics)}: cannot be measured on {theirs.called}; name another set, or a metric "
            "of both in the task"
        )
    if sorted(mine.labels) != sorted(theirs.labels):
        raise AutopeftError(
            f"{where}: its labels are {_listed(theirs.labels)}, and the task's {_listed(mine.labels)}; name a set with "
            "the same labels, or rename them"
        )
    test = other.test
    if mine.labels != theirs.labels:
        test = _renumbered(test, [mine.labels.index(label) for label in theirs.labels], where)
    return replace(other, train=test, validation=test, test=test, readout=mine, metrics=metrics, draws=None)


def _renumbered(test: Split, numbers: Sequence[int], where: str) -> Split:
    """The split with the task's numbers of its classes."""
    if not all(isinstance(label, int) and label < len(numbers) for label in test.labels):
        raise AutopeftError(f"{where}: its labels are in another order than the task's; bring them into the same")
    return replace(test, labels=tuple(numbers[label] for label in test.labels))


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN:,} more" if len(labels) > _SHOWN else ""
    return (", ".join(map(shown, labels[:_SHOWN])) or "none") + more
