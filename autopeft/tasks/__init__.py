"""Tasks: the labelled texts that candidates are trained and scored on. One file here is one kind of task."""

from __future__ import annotations

from autopeft.tasks._base import Split, Task, TaskData
from autopeft.tasks._other_sets import OtherSets, others_of, set_from
from autopeft.tasks._registry import TASKS, task_from

__all__ = ["TASKS", "OtherSets", "Split", "Task", "TaskData", "others_of", "set_from", "task_from"]
