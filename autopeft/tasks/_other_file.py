"""A task's data from one other file: for measuring what was trained before on it."""

from __future__ import annotations

from pathlib import Path

from autopeft.config import parse
from autopeft.tasks._base import Task
from autopeft.tasks._data import TaskData
from autopeft.tasks._labels import encoded
from autopeft.tasks._rows import Raw, Rows
from autopeft.tasks.files import Files


def data_of_file(
    task: Task, file: Path, names: tuple[str, ...], metrics: tuple[str, ...], positive: int | None = None
) -> TaskData:
    """The rows of `file` as the test split, by the columns of `task`; nothing else of the task is read.

    `names`: the classes by number (empty for regression). Train and validation hold its first row only, as no split may
    be empty. `AutopeftError` with the row's place for a label that is no class.
    """
    text, label = task.columns
    # As train's, so that a file of any known format is taken.
    rows = parse(Files, {"train": str(file), "text": text, "label": label}, "on")._read().train
    trained = Rows("the classes of the adapter", names or ("",), None, names or (0.0,))
    test = encoded(Raw(trained, test=rows, regression=not names), names)[2]
    assert test is not None, "it was given"
    first = test.take([0])
    return TaskData(task.title, first, first, test, names, metrics, f"test: {file}", positive=positive)
