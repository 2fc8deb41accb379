"""Any number of several classes a text: binary cross entropy with logits, the mean over the classes.

Shapes: K candidates, N examples, B of them in a batch, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from autopeft.cells import label_cell, missing, plain, shown, text_cell
from autopeft.errors import AutopeftError
from autopeft.readouts._base import Labelled, Measure, Readout
from autopeft.readouts._labels import ClassNumbers, sorted_names

if TYPE_CHECKING:
    import numpy as np
    import torch

_SEPARATOR = "|"


def _f1(average: str, labels: np.ndarray, chosen: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, chosen, average=average, zero_division=0.0))


def _f1_micro(labels: np.ndarray, chosen: np.ndarray) -> float:
    return _f1("micro", labels, chosen)


def _f1_macro(labels: np.ndarray, chosen: np.ndarray) -> float:
    return _f1("macro", labels, chosen)


def _subset_accuracy(labels: np.ndarray, chosen: np.ndarray) -> float:
    return float((labels == chosen).all(axis=1).mean())


@dataclass(frozen=True)
class MultiLabel(Readout):
    """A set of classes a text, which may be empty: those of logits above 0, a probability above one half."""

    name: ClassVar[str] = "multi_label"
    description: ClassVar[str] = "any number of several classes: a list, or 'a|b'"
    describes: ClassVar[bool] = True
    called: ClassVar[str] = "sets of classes"
    problem_type: ClassVar[str | None] = "multi_label_classification"
    own_metrics = {
        "f1_micro": Measure(_f1_micro),
        "f1_macro": Measure(_f1_macro),
        "subset_accuracy": Measure(_subset_accuracy),
    }

    @classmethod
    def row(cls, record: Mapping[str, Any], text: Sequence[str], label: str, where: str) -> tuple[list[str], Any]:
        """The label is a list of single values, written as JSON, or as text with `|` between classes."""
        texts = [text_cell(record, column, where) for column in text]
        if label not in record:
            raise AutopeftError(f"{where}: {missing(label, label, record)}")
        names = _listed(plain(record[label]))
        if names is None:
            what = "is empty" if record[label] in (None, "") else f"holds no list of classes but {shown(record[label])}"
            raise AutopeftError(f"{where}: label column '{label}' {what}; write [] for a row of no class")
        return texts, tuple(label_cell({label: name}, label, where) for name in names)

    @classmethod
    def of(cls, train: Labelled, names: tuple[str, ...] | None = None) -> Self:
        """The classes as the data declare them, else train's, by value if all are numbers."""
        return cls(sorted_names(name for label in train.labels for name in label) if names is None else names)

    def encode(self, rows: Labelled, known: Collection[Any] | None, known_in: str) -> tuple[tuple[int, ...], ...]:
        """Of each row, the numbers of its classes, in rising order."""
        numbers = ClassNumbers(self.labels, known, known_in)
        found = []
        for index, label in enumerate(rows.labels):
            found.append(tuple(sorted({numbers.of(name, rows.at(index)) for name in label})))
        return tuple(found)

    def seen(self, labels: Sequence[Any]) -> Collection[Any]:
        """The classes that train has."""
        return {number for label in labels for number in label}

    def check(self, labels: Sequence[Any], place: str) -> None:
        """Some row must have a class, and not all the same ones."""
        if len(set(labels)) < 2:
            raise AutopeftError(f"{place}: every row has the same classes; add rows of others")

    def remarks(self, train: Labelled, declared: bool) -> Iterable[str]:
        """How many rows have no class."""
        if count := sum(not label for label in train.labels):
            yield f"{count:,} of train's {len(train.labels):,} rows have no class"

    def array(self, labels: Sequence[Any]) -> np.ndarray:
        """float32 [N, C]: 1 for the classes that a text has, 0 for the others."""
        import numpy as np

        found = np.zeros((len(labels), self.outputs), dtype=np.float32)
        for row, label in zip(found, labels, strict=True):
            row[list(label)] = 1
        return found

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Binary cross entropy."""
        from torch.nn import functional

        outputs, labels = outputs.float(), labels.expand(len(outputs), -1, -1)
        return functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none").mean((1, 2))

    def described(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """The classes that are there, and the probability of each."""
        import numpy as np

        found = []
        for row in outputs:
            likely = {label: float(1 / (1 + np.exp(-value))) for label, value in zip(self.labels, row, strict=True)}
            found.append({"labels": [label for label, p in likely.items() if p > 0.5], "probabilities": likely})
        return found

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """0 or 1 for each class, [N, C]."""
        chosen: np.ndarray = (outputs > 0).astype(int)
        return chosen


def _listed(value: Any) -> list[Any] | None:
    """The classes in a cell; None where it holds none."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if not isinstance(value, str):
        return None if value is None or value != value else [value]
    if value.strip().startswith("["):
        try:
            found = json.loads(value)
        except ValueError:
            return None
        return list(found)
    return [name.strip() for name in value.split(_SEPARATOR)] if value.strip() else None
