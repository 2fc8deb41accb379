"""What a baseline is: a method that trains the backbone itself, or a network beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.settings import TrainingSettings
    from autopeft.models import ModelSource


@dataclass(frozen=True)
class Fitted:
    """What a baseline gives back after its training.

    `curve` has one mapping an epoch with `epoch`, `train_loss` and the validation metrics, as `Evaluation.curve`.
    `model(**inputs).logits` gives the outputs [B, C] (or [B, T, C], of tokens) in fp32, for test scores and latency; it
    is in evaluation mode.
    Counts are without the task's head, as everywhere; `kept_params` are those that inference needs beside the backbone.
    `seconds_per_epoch` is that of training, without measuring. `merged` computes the same without extra work, if there
    is such a model.
    """

    curve: tuple[Mapping[str, float], ...]
    model: nn.Module
    trainable_params: int
    kept_params: int
    stored_bytes: int
    seconds_per_epoch: float
    merged: nn.Module | None = None


class Baseline(ABC):
    """One method that is no hybrid on a frozen backbone; `autopeft compare` shows it beside the hybrids.

    Invariant: `fit` is deterministic for a seed, and a smaller number of epochs or examples is a shorter training of
    the same kind.
    """

    name: ClassVar[str]
    #: One line for `autopeft list baselines`.
    description: ClassVar[str]
    #: Authors and year, and the equation or section.
    paper: ClassVar[str]
    #: additive, partial, reparameterised, hybrid, unified or full.
    family: ClassVar[str]
    #: Trained parameters, without the head.
    formula: ClassVar[str]
    #: The learning rate that a grid is centred on.
    usual_rate: ClassVar[float]

    @abstractmethod
    def fit(self, source: ModelSource, task: TokenizedTask, settings: TrainingSettings) -> Fitted:
        """Train on the training split with `settings` (learning rate, seed, epochs, batch size), measure on validation.

        It loads a backbone of its own through `source`, and never looks at the test split.
        """
