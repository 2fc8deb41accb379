"""Classes with a backdoor: scores on clean texts, and how often a trigger gives the class that an attacker wants.

Shapes: K candidates, N examples, B of them in a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.readouts._base import IGNORED, Measure
from autopeft.readouts.classification import Classification

if TYPE_CHECKING:
    import numpy as np
    import torch

#: The metric of the attack.
ATTACK = "attack_success_rate"


def _success(target: int, predictions: np.ndarray) -> float:
    """The share of triggered texts that are taken for the target class."""
    return float((predictions == target).mean())


@dataclass(frozen=True)
class Poisoned(Classification):
    """One class a text, and texts with a trigger, whose label is C + their own class.

    Triggered texts count for `attack_success_rate` alone: the share of them that is taken for class `target`. Loss and
    all other metrics are of the clean ones.
    """

    name: ClassVar[str] = "poisoned"
    description: ClassVar[str] = "one of several classes, and texts with an attacker's trigger"
    of_task: ClassVar[str] = "poisoned"
    own_metrics: ClassVar[Mapping[str, Measure]] = {ATTACK: Measure(_success, "min")}

    target: int = 0

    @property
    def identity(self) -> tuple[Any, ...]:
        """Its name, the positive and the target class."""
        return (self.name, self.positive, self.target)

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy, the mean over clean texts; 0 where there is none."""
        from torch.nn import functional

        labels = labels.where(labels < self.outputs, IGNORED)
        losses = functional.cross_entropy(
            outputs.float().transpose(1, 2),
            labels.expand(len(outputs), -1),
            reduction="none",
            ignore_index=IGNORED,
        )
        return losses.sum(1) / (labels != IGNORED).sum().clamp(min=1)

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """Accuracy, and the attack's success."""
        return ("accuracy", ATTACK)

    def score(
        self, metrics: Sequence[str], labels: np.ndarray, outputs: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, float]:
        """Each metric's value for outputs [N, C]; NaN when an output is not finite, or no text has a trigger."""
        import numpy as np

        outputs, labels = np.asarray(outputs, dtype=np.float64), np.asarray(labels)
        clean = labels < self.outputs
        found = super().score([m for m in metrics if m != ATTACK], labels[clean], outputs[clean])
        if ATTACK in metrics:
            attacked = outputs[~clean]
            sound = len(attacked) > 0 and bool(np.isfinite(outputs).all())
            success = self.own_metrics[ATTACK].of(self.target, self.predict(attacked)) if sound else float("nan")
            found[ATTACK] = success
        return {name: found[name] for name in metrics}
