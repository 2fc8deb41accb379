"""One of several classes a text: cross entropy.

Shapes: K candidates, N examples, B of them in a batch, C classes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from autopeft.cells import shown
from autopeft.errors import AutopeftError, suggest
from autopeft.metrics import Metric
from autopeft.readouts._base import Labelled, Readout
from autopeft.readouts._labels import MISSING, ClassNumbers, doubt, folded, label_key, of_each, sorted_names, spellings
from autopeft.wording import counted

if TYPE_CHECKING:
    import numpy as np
    import torch

_COMMA = re.compile(r"[+-]?\d+(,\d+)?")
_NAMED = 3  # examples in a sentence


@dataclass(frozen=True)
class Classification(Readout):
    """One class a text.

    `f1` is that of class `positive` (1 for None) of two classes, and the mean over the classes of more.
    """

    name: ClassVar[str] = "classification"
    description: ClassVar[str] = "one of several classes"
    describes: ClassVar[bool] = True
    called: ClassVar[str] = "classes"
    problem_type: ClassVar[str | None] = "single_label_classification"
    scored_as: ClassVar[str] = "classes"

    positive: int | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """The positive class, where one was chosen."""
        return () if self.positive is None else (self.positive,)

    @classmethod
    def of(cls, train: Labelled, names: tuple[str, ...] | None = None) -> Self:
        """The classes as the data declare them, else train's, by value if all are numbers."""
        return cls(sorted_names(train.labels) if names is None else names)

    def with_positive(self, asked: Any, metrics: Sequence[str], where: str) -> Readout:
        """The same with the class that `f1` is of; `AutopeftError` for one that is not there."""
        if asked is None:
            return self
        name = label_key(asked)
        name = next((known for known in self.labels if folded(known) == folded(name)), name)
        if "f1" not in metrics or len(self.labels) != 2:
            what = "there are not two classes" if "f1" in metrics else "'f1' is not among the metrics"
            raise AutopeftError(f"{where}: '{name}' changes nothing, as {what}; leave it out")
        if name not in self.labels:
            raise AutopeftError(f"{where}: unknown class '{name}'; {suggest(name, self.labels)}")
        return replace(self, positive=self.labels.index(name))

    def encode(self, rows: Labelled, known: Collection[Any] | None, known_in: str) -> tuple[int, ...]:
        """Class numbers."""
        return of_each(rows, ClassNumbers(self.labels, known, known_in))

    def seen(self, labels: Sequence[Any]) -> Collection[Any]:
        """The classes that train has."""
        return set(labels)

    def check(self, labels: Sequence[Any], place: str) -> None:
        """There must be two classes at least."""
        if len(set(labels)) < 2:
            # Before the other splits are read: there every row of another label would seem to be the mistake.
            only = shown(self.labels[int(labels[0])] if labels else "")
            raise AutopeftError(f"{place}: one class only, every row has the label {only}; add rows of another")

    @property
    def strata(self) -> tuple[str, ...]:
        """The classes."""
        return self.labels

    def remarks(self, train: Labelled, declared: bool) -> Iterable[str]:
        """Spellings that were read as one class, and classes that look like a mistake."""
        return _remarks(self.labels, train.labels, declared)

    def metric_remarks(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """Which class `f1` is of, and how to choose the other."""
        if "f1" not in metrics or len(self.labels) != 2:
            return ()
        if self.positive is not None:
            return (f"f1 is that of the class '{self.labels[self.positive]}', as task.positive says",)
        return (
            f"f1 is that of the class '{self.labels[1]}', which is a guess (the later of the two): name it, "
            f"task.positive: {self.labels[1]} or {self.labels[0]}",
        )

    def array(self, labels: Sequence[Any]) -> np.ndarray:
        """int64 [N]."""
        import numpy as np

        return np.asarray(labels, dtype=np.int64)

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy."""
        from torch.nn import functional

        outputs, labels = outputs.float(), labels.expand(len(outputs), -1)
        return functional.cross_entropy(outputs.transpose(1, 2), labels, reduction="none").mean(1)

    def described(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """The class, and the probability of each."""
        import numpy as np

        likely = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        return [
            {
                "label": self.labels[int(row.argmax())],
                "probabilities": dict(zip(self.labels, row.tolist(), strict=True)),
            }
            for row in likely
        ]

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Class numbers [N]."""
        classes: np.ndarray = outputs.argmax(axis=1)
        return classes

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """Accuracy."""
        return ("accuracy",)

    def measured(self, metric: type[Metric], labels: np.ndarray, outputs: np.ndarray) -> float:
        """Of logits [N, C], and about the positive class where one was chosen."""
        return float(metric().of(labels, outputs, self.positive))


def _remarks(names: Sequence[str], labels: Sequence[Any], declared: bool) -> Iterable[str]:
    if not declared:
        for name, keys in spellings(labels).items():
            if len(keys) > 1:
                yield f"labels {_listed(keys)} are read as one class, {shown(name)}"
        missing = {name for name in names if name.lower() in MISSING}
        counts = Counter(key for label in labels if (key := label_key(label)) in missing)
        for name, count in counts.items():
            yield f"label {shown(name)} ({counted(count, 'row')} of train) is read as a class, not as a missing label"
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_look(name), []).append(name)
    groups = [group for group in alike.values() if len(group) > 1]
    for group in groups[:_NAMED]:
        yield f"labels {_listed(group)} look alike, and are {len(group)} classes"
    if any("," in name for name in names) and all(map(_COMMA.fullmatch, names)):
        yield f"labels such as {_listed(names)} are read as classes: numbers need a decimal point"
    if len(names) > 10 and 2 * len(names) > len(labels):
        yield f"train has {len(names):,} labels in {len(labels):,} rows: {doubt(names)}"


def _look(name: str) -> str:
    look = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return {"true": "1", "false": "0"}.get(look, look)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(map(shown, names[:_NAMED])) + more
