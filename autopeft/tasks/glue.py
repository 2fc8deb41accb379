"""The tasks of the GLUE benchmark."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

from autopeft.tasks._base import Task
from autopeft.tasks._rows import Raw
from autopeft.tasks.hub import Hub


class _Subset(NamedTuple):
    text: list[str]
    metrics: tuple[str, ...] = ("accuracy",)
    validation: str = "validation"
    test: str = "test"


_SUBSETS = {
    "cola": _Subset(["sentence"], ("matthews",)),
    "sst2": _Subset(["sentence"]),
    "mrpc": _Subset(["sentence1", "sentence2"], ("f1", "accuracy")),
    "qqp": _Subset(["question1", "question2"], ("f1", "accuracy")),
    "stsb": _Subset(["sentence1", "sentence2"], ("spearman", "pearson")),
    "mnli": _Subset(["premise", "hypothesis"], validation="validation_matched", test="test_matched"),
    "qnli": _Subset(["question", "sentence"]),
    "rte": _Subset(["sentence1", "sentence2"]),
    "wnli": _Subset(["sentence1", "sentence2"]),
}


class Glue(Task):
    """One of GLUE's tasks, with its columns and metrics.

    The labels of most of its tests are hidden: then its validation split is the test. `path`: the data set on the hub,
    or a local folder with the same configurations.
    """

    name: ClassVar[str] = "glue"
    description: ClassVar[str] = "a task of the GLUE benchmark, from the Hugging Face hub: glue/rte, glue/mrpc, ..."
    variant_field: ClassVar[str] = "subset"

    subset: Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"]
    path: str = "nyu-mll/glue"

    @property
    def labelled(self) -> tuple[list[str], str]:
        """Those of the task."""
        return _SUBSETS[self.subset].text, "label"

    def _read(self) -> Raw:
        subset = _SUBSETS[self.subset]
        hub = Hub(path=self.path, config=self.subset, text=subset.text, validation=subset.validation, test=subset.test)
        return replace(
            hub._read(), metrics=subset.metrics, readout="regression" if self.subset == "stsb" else "classification"
        )
