"""Classes of several tasks: each text is of one task, and one of that task's classes.

One head has the classes of all tasks end to end, so that packs, probes and files of weights know nothing of tasks. A
text's outputs for classes of other tasks are taken out before loss and predictions: so its loss is the cross entropy
over its own task's classes, and the rows of the head for other tasks get no gradient from it.

Shapes: K candidates, N examples, B of them in a batch, C classes of all tasks together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.errors import AutopeftError
from autopeft.metrics import METRICS
from autopeft.readouts._base import Measure, Readout
from autopeft.readouts.classification import Classification

if TYPE_CHECKING:
    import numpy as np
    import torch

#: Between the name of a task and that of its class.
BETWEEN = ": "
#: The metric that is the mean of the tasks' scores.
MEAN = "mean_score"
#: The output of a class that cannot be: finite, so that what compares outputs sees no difference there.
_NOWHERE = -1e9


@dataclass(frozen=True)
class Mixed(Classification):
    """One class a text, of the task that the text is of; `labels` are `task: class`, those of a task together.

    Metrics are `task.metric`, of one task's texts alone, and `mean_score`: the mean over the tasks of the first metric
    of each that is measured beside it (accuracy where none is). `positives`: the positive class of each task, by its
    number in the task; empty where none has one.
    """

    name: ClassVar[str] = "mixed"
    describes: ClassVar[bool] = False
    description: ClassVar[str] = "one of several classes of one of several tasks"
    called: ClassVar[str] = "classes of several tasks"
    of_task: ClassVar[str] = "mix"
    own_metrics: ClassVar[Mapping[str, Measure]] = {MEAN: Measure(lambda tasks, scores: fmean(scores))}

    positives: tuple[int | None, ...] = ()

    @property
    def identity(self) -> tuple[Any, ...]:
        """Its name, and the positive classes."""
        return (self.name, *self.positives)

    @cached_property
    def tasks(self) -> dict[str, tuple[int, int]]:
        """Where the classes of each task begin and end among all."""
        found: dict[str, tuple[int, int]] = {}
        for i, label in enumerate(self.labels):
            task = label.partition(BETWEEN)[0]
            found[task] = (found.get(task, (i, i))[0], i + 1)
        return found

    def with_positive(self, asked: Any, metrics: Sequence[str], where: str) -> Readout:
        """A task alone has a positive class."""
        if asked is None:
            return self
        raise AutopeftError(f"{where}: '{asked}': there are several tasks; say it of one of them, in 'of'")

    # --- the model

    def read(self, model: Any, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """The outputs, those for classes of other tasks than each text's own taken out."""
        outputs = self.forward(model, inputs).unflatten(0, (-1, len(labels)))
        return self._own(outputs, labels).flatten(0, 1)

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy over the classes of each text's task."""
        return super().loss(self._own(outputs.float(), labels), labels)

    def _own(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Outputs [K, B, C] with nothing for classes of other tasks."""
        import torch

        sizes = [end - start for start, end in self.tasks.values()]
        task = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(labels.device)
        return outputs.masked_fill(task[labels][:, None] != task, _NOWHERE)

    # --- scores

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """The mean, and each task's accuracy."""
        return (MEAN, *(f"{task}.accuracy" for task in self.tasks))

    @classmethod
    def fits(cls, metric: str) -> bool:
        """The mean, and metrics of classes; `complaint` says whether the task is there."""
        return metric.rpartition(".")[2] in cls.metrics()

    def complaint(self, metric: str) -> str:
        """The mean is of all tasks, and any other metric of one of them."""
        task, _, name = metric.rpartition(".")
        if (name == MEAN) != bool(task) and (not task or task in self.tasks):
            return ""
        return f"'{metric}' is of no task here; choose of {MEAN}, {', '.join(f'{one}.{name}' for one in self.tasks)}"

    def score(
        self, metrics: Sequence[str], labels: np.ndarray, outputs: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, float]:
        """Each metric's value for outputs [N, C]; NaN when an output is not finite, or a task has no text."""
        import numpy as np

        outputs, labels = np.asarray(outputs, dtype=np.float64), np.asarray(labels, dtype=np.int64)
        if outputs.shape != (len(labels), self.outputs) or not len(labels):
            raise ValueError(f"labels {labels.shape} and outputs {outputs.shape} don't fit {', '.join(metrics)}")
        for name in metrics:
            if wrong := self.complaint(name) or ("" if self.fits(name) else f"'{name}' does not fit {self.called}"):
                raise AutopeftError(f"{wrong}; by default {', '.join(self.default_metrics)}")
        if not np.isfinite(outputs).all():
            return dict.fromkeys(metrics, float("nan"))
        main = {task: f"{task}.accuracy" for task in self.tasks}
        main |= {name.rpartition(".")[0]: name for name in reversed(metrics) if name != MEAN}
        found = {name: self._of_task(name, labels, outputs) for name in {*metrics, *main.values()} - {MEAN}}
        found[MEAN] = self.own_metrics[MEAN].of(list(main), [found[name] for name in main.values()])
        return {name: float(found[name]) for name in metrics}

    def _of_task(self, metric: str, labels: np.ndarray, outputs: np.ndarray) -> float:
        """A metric of the texts of one task and its own outputs."""
        task, _, name = metric.rpartition(".")
        start, end = self.tasks[task]
        rows = (labels >= start) & (labels < end)
        if not rows.any():
            return float("nan")
        positive = self.positives[list(self.tasks).index(task)] if self.positives else None
        return float(METRICS.get(name)().of(labels[rows] - start, outputs[rows, start:end], positive))
