"""A task's data from one other file: for measuring what was trained before on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autopeft.config import parse
from autopeft.readouts import Readout
from autopeft.tasks._base import Task
from autopeft.tasks._data import TaskData
from autopeft.tasks._encoded import split_of
from autopeft.tasks._formatted import OPTIONS, Formatted
from autopeft.tasks._rows import Raw
from autopeft.tasks.files import Files, check_kind
from autopeft.tasks.images import Images, ImageTask


def data_of_file(
    task: Task, file: Path, readout: Readout, metrics: tuple[str, ...], known_in: str = "the classes of the adapter"
) -> TaskData:
    """The rows of `file` as the test split, by the columns (or the format) of `task`; nothing else of the task is read.

    Train and validation are the same rows, as no split may be empty. `AutopeftError` with the row's place for a
    label that is not the readout's; `known_in` says where these are.
    """
    if readout.given == "image":
        return _data(task, _images(task, file), file, readout, metrics, known_in)
    check_kind(file)
    task, readout, metrics = task.for_file(readout, metrics)
    # As train's, so that a file of any known format is taken.
    fields: dict[str, Any] = {"train": str(file), "readout": readout.name}
    if isinstance(task, Formatted) and task.written:
        fields |= task.model_dump(include=set(OPTIONS) - {"group"}, exclude_none=True)
    else:
        text, label = task.labelled
        fields |= {"text": text, "label": label}
    return _data(task, parse(Files, fields, "on")._read(), file, readout, metrics, known_in)


def _images(task: Task, file: Path) -> Raw:
    columns = {"image": task.image, "label": task.label} if isinstance(task, ImageTask) else {}
    return parse(Images, {"train": str(file), **columns}, "on")._read()


def _data(task: Task, read: Raw, file: Path, readout: Readout, metrics: tuple[str, ...], known_in: str) -> TaskData:
    test = split_of(read.train, readout, None, known_in)
    return TaskData(task.title, test, test, test, readout, metrics, f"test: {file}", template=read.template)
