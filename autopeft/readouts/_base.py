"""What a readout is: how labels are read, and how a model's outputs become a loss, predictions and scores.

Shapes: K candidates, N examples of a split, B of them in a batch, L tokens of the longest in the batch, T tokens of a
split without padding, C outputs. Labels are of examples, [N, ...], or of tokens, [T].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from autopeft.anatomy import family_of, head_names
from autopeft.cells import label_cell, text_cell
from autopeft.errors import AutopeftError
from autopeft.metrics import METRICS, Metric

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

#: The label of a token that has none.
IGNORED = -100

#: Rows of a file in a format of its own: (lines, file, text columns, label column) to (number, record) pairs.
Reader = Callable[[Iterable[str], str, Sequence[str], str], Iterator[tuple[int, dict[str, Any]]]]


@dataclass(frozen=True)
class Measure:
    """A metric of one kind of labels alone: `of(labels, predictions)`, and whether more or less of it is better."""

    of: Callable[[Any, Any], float]
    direction: Literal["max", "min"] = "max"


class Labelled(Protocol):
    """Rows as a task read them: their labels, and where each stands."""

    @property
    def place(self) -> str:
        """A file, or a data set's split."""

    @property
    def first(self) -> Sequence[str]:
        """The (first) texts."""

    @property
    def labels(self) -> Sequence[Any]:
        """What `Readout.row` gave of each row."""

    def at(self, index: int) -> str:
        """Where the row of that index stands, for a message."""


@dataclass(frozen=True)
class Readout(ABC):
    """What stands between a task's labels and a model's outputs: a value, hashable, JSON in both directions.

    A plug-in is a frozen dataclass with `name`; its fields are all that it depends on, `labels` (the classes by number)
    among them. It says which model and head the task needs, reads labels, and gives loss, predictions and metrics.

    `auto_class` is transformers' class for the model, `peft_task` PEFT's name of the task (None where it has none),
    `problem_type` goes into the model's configuration. `given`: what its models are given. `reads`: whether the
    outputs depend on one token of the last layer (the one that a sequence head pools) or on all of them.
    `per_token`: labels are of tokens, and so are outputs unless they are `summed` over the tokens of each example.
    `tokenises`: its texts are conversations (see `autopeft.formats`), and its labels those of their tokens that are
    scored; `encodes`: their models have an encoder, which reads what is not. `masks`: these are plain, and some of
    their tokens are masked, by its `seed`. `generates`: its models write texts, so that exports have the tokenizer
    beside them. `columns`: default names of the text and the label column. `readers`: file formats of its own, by
    suffix. `called`: what messages call its labels. `of_task`: the task that alone makes such labels, if it is one.
    `own_metrics` are metrics of this kind alone; those of `autopeft.metrics` fit whose labels are `scored_as`.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    called: ClassVar[str]
    of_task: ClassVar[str] = ""
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    peft_task: ClassVar[str | None] = "SEQ_CLS"
    problem_type: ClassVar[str | None] = None
    reads: ClassVar[Literal["one", "all"]] = "one"
    per_token: ClassVar[bool] = False
    summed: ClassVar[bool] = False
    tokenises: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    encodes: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    describes: ClassVar[bool] = False
    given: ClassVar[Literal["text", "image"]] = "text"
    scored_as: ClassVar[str] = ""
    own_metrics: ClassVar[Mapping[str, Measure]] = {}
    columns: ClassVar[tuple[str | None, str]] = (None, "label")
    readers: ClassVar[Mapping[str, Reader]] = {}

    labels: tuple[str, ...] = ()

    # --- the value

    def to_json(self) -> dict[str, Any]:
        """Its name and fields; `readout_from` reads them back."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"name": self.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}

    @property
    def identity(self) -> tuple[Any, ...]:
        """What a data set's fingerprint holds of it, beside the labels and the metrics."""
        return (self.name,)

    # --- the model

    @property
    def outputs(self) -> int:
        """The width of the head, C."""
        return len(self.labels)

    def configuration(self) -> dict[str, Any]:
        """What it sets in the model's configuration."""
        kind = {} if self.problem_type is None else {"problem_type": self.problem_type}
        return {"num_labels": self.outputs, **kind}

    def check_model(self, config: PretrainedConfig, name: str) -> None:
        """`AutopeftError` for the model of that name and configuration, where it is none that this kind is for."""
        images = family_of(config).images
        if images != (self.given == "image"):
            reads = "images; take a model of texts" if images else "texts; take a model of images, such as a ViT"
            raise AutopeftError(f"model '{name}': reads {reads}, as this task is of {self.given}s")
        import transformers

        known = getattr(transformers, self.auto_class)._model_mapping
        if type(config).__module__.startswith("transformers.") and type(config) not in known:
            raise AutopeftError(
                f"model '{name}': transformers has no {self.auto_class} of family '{config.model_type}'; "
                "take another model"
            )

    def heads(self, model: PreTrainedModel) -> list[str]:
        """Dotted names of the modules that are trained from scratch beside the hybrid."""
        return head_names(model)

    def forward(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The model's outputs [B, C] (or [B, L, C], of tokens) in fp32."""
        logits: torch.Tensor = model(**inputs).logits
        return logits.float()

    def read(self, model: Any, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """What loss and predictions are made of, [K*B, C] (or [K*B, L, C]) in fp32, for labels of B examples.

        The model's outputs, unless a kind makes less of them at once: those of a language model are huge.
        """
        return self.forward(model, inputs)

    def opened(self, model: PreTrainedModel) -> None:  # noqa: B027 - most kinds take the model's outputs as they are
        """Look at a model that was just loaded, with nothing attached to it."""

    def most_tokens(self, model: Any) -> int | None:
        """How many tokens with padding may go through a model at once, all sequences together; None for no bound."""
        return None

    # --- the labels

    @classmethod
    def row(cls, record: Mapping[str, Any], text: Sequence[str], label: str, where: str) -> tuple[list[str], Any]:
        """Texts and label of one row of a file; `AutopeftError`, starting with `where`, for what is wrong in it."""
        return [text_cell(record, column, where) for column in text], label_cell(record, label, where)

    @classmethod
    def infers(cls, train: Labelled) -> bool:
        """Whether train's labels are of this kind, where the task does not say the kind."""
        return False

    @classmethod
    @abstractmethod
    def of(cls, train: Labelled, names: tuple[str, ...] | None = None) -> Readout:
        """The readout of train's labels; `names`: the classes in their order, where the data declare them."""

    def with_positive(self, asked: Any, metrics: Sequence[str], where: str) -> Readout:
        """The same for the positive class that the task asks for; `AutopeftError` where that changes nothing."""
        if asked is None:
            return self
        raise AutopeftError(
            f"{where}: '{asked}' changes nothing, as {self.called} have no positive class; leave it out"
        )

    def seeded(self, seed: int) -> Readout:
        """The same for a task of that seed, where anything is drawn."""
        return self

    @abstractmethod
    def encode(self, rows: Labelled, known: Collection[Any] | None, known_in: str) -> tuple[Any, ...]:
        """A split's labels as JSON values, one a row; `AutopeftError` with the row's place for a label that is none.

        `known`: the labels that may occur (all, for None), as `seen` gives them; `known_in` says of messages where.
        """

    def seen(self, labels: Sequence[Any]) -> Collection[Any] | None:
        """Of train's encoded labels, what other splits may have; None for anything."""
        return None

    def check(self, labels: Sequence[Any], place: str) -> None:  # noqa: B027 - most kinds take anything
        """`AutopeftError`, starting with `place`, where nothing can be learned from train's encoded labels."""

    @property
    def strata(self) -> tuple[str, ...]:
        """The classes by which splits are cut from train; empty for cuts at random."""
        return ()

    def remarks(self, train: Labelled, declared: bool) -> Iterable[str]:
        """What a user should know of how train's labels were read; `declared`: the data named the classes."""
        return ()

    def metric_remarks(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """What a user should know of these metrics."""
        return ()

    @abstractmethod
    def array(self, labels: Sequence[Any]) -> np.ndarray:
        """Encoded labels of examples as an array [N, ...]; of tokens, what `placed` gave, end to end, as [T]."""

    def placed(self, text: str, label: Any, spans: Sequence[tuple[int, int]]) -> list[int]:
        """`per_token` only: the label of each token of a text, from the characters [start, end) that it stands for."""
        raise NotImplementedError(f"{self.name} has labels of examples")

    # --- loss and scores

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """What is measured where the task asks for nothing, main one first."""
        return tuple(self.own_metrics)[:1]

    @abstractmethod
    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean losses [K], fp32, of outputs [K, B, ...] on the same labels [B, ...]; of tokens, over labelled ones."""

    @abstractmethod
    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Predictions for outputs [N, C] (or [T, C])."""

    def described(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """For a reader: what outputs [N, C] say of each example; only of kinds that `describes`."""
        raise NotImplementedError(f"{self.name} describes no examples")

    def score(
        self, metrics: Sequence[str], labels: np.ndarray, outputs: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, float]:
        """Each metric's value for outputs [N, C] of at least one example (or [T, C], of tokens).

        `offsets` [N + 1]: where the examples begin, for labels of tokens. All values are NaN when an output is not
        finite: the run diverged. `ValueError` for other shapes, `AutopeftError` for unknown metrics.
        """
        import numpy as np

        chosen = {name: self._known(name) for name in metrics}
        outputs = np.asarray(outputs, dtype=np.float64)
        labels = np.asarray(labels, dtype=np.float64 if np.asarray(labels).dtype.kind == "f" else np.int64)
        if outputs.ndim != 2 or not len(labels) or len(outputs) != len(labels) or outputs.shape[1] != self.outputs:
            raise ValueError(f"labels {labels.shape} and outputs {outputs.shape} don't fit {', '.join(metrics)}")
        if not np.isfinite(outputs).all():
            return dict.fromkeys(chosen, float("nan"))
        one, other = self.compared(labels, self.predict(outputs), offsets)
        return {
            name: float(
                metric.of(one, other) if isinstance(metric, Measure) else self.measured(metric, labels, outputs)
            )
            for name, metric in chosen.items()
        }

    def compared(self, labels: np.ndarray, predictions: np.ndarray, offsets: np.ndarray | None) -> tuple[Any, Any]:
        """Labels and predictions as its own metrics take them."""
        return labels, predictions

    def measured(self, metric: type[Metric], labels: np.ndarray, outputs: np.ndarray) -> float:
        """A metric of `autopeft.metrics`, of outputs [N, C]."""
        return float(metric().of(labels, outputs))

    @classmethod
    def metrics(cls) -> Mapping[str, Measure | type[Metric]]:
        """All metrics that fit, by name."""
        others = {name: metric for name, metric in METRICS.all().items() if metric.labels == cls.scored_as}
        return {**cls.own_metrics, **others}

    @classmethod
    def fits(cls, metric: str) -> bool:
        """Whether it has a metric of that name."""
        return metric in cls.metrics()

    def _known(self, metric: str) -> Measure | type[Metric]:
        known = self.metrics()
        if metric not in known:
            raise AutopeftError(f"'{metric}' does not fit {self.called}; choose of {', '.join(known)}")
        return known[metric]

    def complaint(self, metric: str) -> str:
        """What is wrong with a metric for these very labels, or ""."""
        return ""
