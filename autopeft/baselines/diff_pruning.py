"""Diff pruning: a change of all weights, made sparse by gates that are trained with it. Guo et al. 2021.

Shapes: N entries of the backbone's weights, K of them are changed in the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from autopeft.baselines._base import Fitted
from autopeft.baselines._kept import Kept, KeptBaseline, check_option, record_of
from autopeft.baselines._sparse import SparselyChanged, halves, holder_of, largest, restored
from autopeft.engine.backbone import Backbone

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.settings import TrainingSettings
    from autopeft.models import ModelSource

#: What a gate's logistic variable is stretched to before it is cut to [0, 1], and its log odds at first.
_LOW, _HIGH, _FIRST = -1.5, 1.5, 5.0


class Gated(nn.Module):
    """A weight plus z * w, z a hard-concrete gate an entry (Louizos et al. 2018).

    z = min(1, max(0, s (h - l) + l)), s = sigmoid(log u - log(1 - u) + a) with u uniform, and s = sigmoid(a) where no
    gradients are kept.
    """

    def __init__(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros_like(weight))
        self.odds = nn.Parameter(torch.full_like(weight, _FIRST))
        self._generator = generator

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed weight."""
        return weight + self.change()

    def change(self) -> torch.Tensor:
        """Z * w."""
        odds: torch.Tensor = self.odds
        if torch.is_grad_enabled():
            u = torch.rand(odds.shape, generator=self._generator).clamp_(1e-6, 1 - 1e-6).to(odds.device)
            odds = odds + u.log() - (-u).log1p()
        return (odds.sigmoid() * (_HIGH - _LOW) + _LOW).clamp(0, 1) * self.w

    @torch.no_grad()
    def add_penalty(self, size: float) -> None:
        """Add the gradient of `size` times the expected number of open gates, sum sigmoid(a - log(-l / h))."""
        is_open = self.odds.sigmoid()  # -l = h
        if self.odds.grad is not None:
            self.odds.grad.add_(is_open * (1 - is_open), alpha=size)


@dataclass(frozen=True)
class DiffPruning(KeptBaseline):
    """A gated change of all weights, then its largest K entries alone; K is `share` of all entries outside the head.

    Each phase has half of the epochs (one at least), an optimiser and a schedule of its own. The first trains 2 N
    numbers, with `penalty` times the expected number of open gates in its loss; the second begins where it ended.
    The paper's groups of weights that share a gate are left out.
    """

    name: ClassVar[str] = "diff_pruning"
    description: ClassVar[str] = "a change of all weights with trained gates, then its largest entries alone (Guo 2021)"
    paper: ClassVar[str] = "Guo et al. 2021, section 3"
    family: ClassVar[str] = "partial"
    formula: ClassVar[str] = "K values (2 N before they are chosen)"
    usual_rate: ClassVar[float] = 2e-4

    share: float = 0.01
    penalty: float = 1.25e-7

    def __post_init__(self) -> None:
        check_option(self, "share", 0.0, 1.0)
        check_option(self, "penalty", 0.0, 1.0)

    def fit(self, source: ModelSource, task: TokenizedTask, settings: TrainingSettings) -> Fitted:
        """Train both phases; the curve goes on from the first to the second."""
        from autopeft.baselines._training import forward_of, own_backbone, train, train_model

        first, second = halves(settings)
        backbone = own_backbone(source, task, settings)
        gates, heads = gated(backbone, settings.seed), backbone.heads.values()
        parameters = [p for module in (*gates.values(), *heads) for p in module.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)

        def penalise(step: int, steps: int) -> None:
            for gate in gates.values():
                gate.add_penalty(self.penalty)

        dense = train(forward_of(backbone.model, task.readout), parameters, task, first, penalise, heads)
        changes = taken_off(backbone, gates)
        indices = largest(changes, self.share)
        model = SparselyChanged(backbone, indices, record_of(self, source, task))
        model.set_values({name: changes[name].flatten()[numbers] for name, numbers in indices.items()})
        for parameter in model.trained():
            parameter.requires_grad_(True)
        sparse = train_model(model, task, second, heads)
        return model.fitted(first.epochs, dense, second.epochs, sparse)

    def restore(self, backbone: Backbone, kept: Kept) -> SparselyChanged:
        """The changes and the head that were kept."""
        return restored(backbone, kept)


def gated(backbone: Backbone, seed: int) -> dict[str, Gated]:
    """Put a gated change on every weight of the backbone; by name."""
    generator, found = torch.Generator().manual_seed(seed), dict[str, Gated]()
    for name, parameter in list(backbone.model.base_model.named_parameters()):
        found[name] = Gated(parameter.detach(), generator)
        parametrize.register_parametrization(*holder_of(backbone, name), found[name])
    return found


@torch.no_grad()
def taken_off(backbone: Backbone, gates: dict[str, Gated]) -> dict[str, torch.Tensor]:
    """The changes, without noise; the backbone is as it was."""
    changes = {name: gate.change() for name, gate in gates.items()}
    for name in gates:
        parametrize.remove_parametrizations(*holder_of(backbone, name), leave_parametrized=False)
    return changes
