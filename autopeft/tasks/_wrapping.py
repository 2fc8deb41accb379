"""What tasks that are made of other tasks have in common."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from autopeft.config import plugin_field
from autopeft.errors import AutopeftError
from autopeft.readouts.classification import Classification
from autopeft.tasks._base import Task
from autopeft.tasks._data import Split, TaskData
from autopeft.tasks._registry import task_from
from autopeft.tasks._rows import Rows

#: A task in another one's field `of`.
Inner = Annotated[Task, *plugin_field(Task, partial(task_from, where="task.of"))]


def of_classes(task: Task, where: str) -> TaskData:
    """The data of a task, one class a text; `AutopeftError`, starting with `where`, for another kind of labels."""
    data = task.load()
    if type(data.readout) is not Classification:
        raise AutopeftError(f"{where}: is of {data.readout.called}; only tasks of one class a text can be taken")
    return data


def rows_of(split: Split, names: tuple[str, ...]) -> Rows:
    """A split's rows with the names of their classes."""
    labels = [names[label] for label in split.labels]
    return Rows(split.place, split.first, split.second, labels, split.numbers or None, "")
