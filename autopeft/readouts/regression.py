"""A real value a text: mean squared error.

Shapes: K candidates, N examples, B of them in a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from autopeft.cells import shown
from autopeft.errors import AutopeftError
from autopeft.metrics import Metric
from autopeft.readouts._base import Labelled, Readout
from autopeft.readouts._labels import MISSING, label_key, number

if TYPE_CHECKING:
    import numpy as np
    import torch

#: From this share of numbers on, with some that aren't whole, a label that is no number is a slip and no class.
_MOSTLY = 0.8
_LARGEST = 3.4e38  # that a model's outputs, of 32 bits, can reach


@dataclass(frozen=True)
class Regression(Readout):
    """A real value; a correlation with a constant is 0."""

    name: ClassVar[str] = "regression"
    description: ClassVar[str] = "a real value"
    describes: ClassVar[bool] = True
    called: ClassVar[str] = "regression"
    problem_type: ClassVar[str | None] = "regression"
    scored_as: ClassVar[str] = "values"

    @property
    def identity(self) -> tuple[Any, ...]:
        """Nothing: that there are no classes says it."""
        return ()

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    @classmethod
    def infers(cls, train: Labelled) -> bool:
        """Whether all labels are numbers, and not all whole.

        `AutopeftError` with the row's place where a column of numbers has something else among them.
        """
        numbers = [number(label) for label in train.labels]
        whole = all(value == int(value) for value in numbers if value is not None)
        if None not in numbers:
            return not whole
        _check_numbers(train, numbers, whole)
        return False

    @classmethod
    def of(cls, train: Labelled, names: tuple[str, ...] | None = None) -> Self:
        """It has no classes."""
        return cls()

    def with_positive(self, asked: Any, metrics: Sequence[str], where: str) -> Readout:
        """`AutopeftError` where one is asked for."""
        return super().with_positive(None if asked is None else label_key(asked), metrics, where)

    def encode(self, rows: Labelled, known: Collection[Any] | None, known_in: str) -> tuple[float, ...]:
        """The numbers, within what fp32 can hold."""
        values = []
        for index, label in enumerate(rows.labels):
            value = number(label)
            if value is None:
                raise AutopeftError(
                    f"{rows.at(index)}: label {shown(label)} is not a number, as regression needs; mend "
                    "the row, or leave the readout out: then labels are classes"
                )
            if abs(value) > _LARGEST:
                raise AutopeftError(
                    f"{rows.at(index)}: label {shown(label)} is beyond what a model can predict; scale it"
                )
            values.append(value)
        return tuple(values)

    def remarks(self, train: Labelled, declared: bool) -> Iterable[str]:
        """That all labels are one."""
        if len(values := set(train.labels)) == 1:
            yield f"every label of train is {shown(values.pop())}: there is nothing to learn"

    def array(self, labels: Sequence[Any]) -> np.ndarray:
        """float32 [N]."""
        import numpy as np

        return np.asarray(labels, dtype=np.float32)

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean squared error of outputs [K, B, 1]."""
        from torch.nn import functional

        outputs, labels = outputs.float(), labels.expand(len(outputs), -1)
        return functional.mse_loss(outputs.squeeze(-1), labels, reduction="none").mean(1)

    def described(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """The value."""
        return [{"value": float(value)} for value in self.predict(outputs)]

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The values [N]."""
        values: np.ndarray = outputs[:, 0]
        return values

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """The rank correlation."""
        return ("spearman",)

    def measured(self, metric: type[Metric], labels: np.ndarray, outputs: np.ndarray) -> float:
        """Of predictions [N]."""
        return float(metric().of(labels, self.predict(outputs)))


def _check_numbers(rows: Labelled, numbers: list[float | None], whole: bool) -> None:
    others = [index for index, value in enumerate(numbers) if value is None]
    count = len(numbers) - len(others)
    slip = f"{rows.at(others[0])}: label {shown(rows.labels[others[0]])} stands among numbers"
    as_class = "or say 'regression: false' if it is a class"
    if count and all(label_key(rows.labels[index]).lower() in MISSING for index in others):
        raise AutopeftError(f"{slip} and says that there is none; give the row a label, remove it, {as_class}")
    if not whole and count >= _MOSTLY * len(numbers):
        raise AutopeftError(f"{slip} ({count:,} of {len(numbers):,} rows); mend or remove the row, {as_class}")
