"""Linearised LoRA: the first-order expansion of the model in LoRA's weights. Tang and others 2023 (L-LoRA).

Shapes: r rank, m and n outputs and inputs of a map, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.func import functional_call, jvp

from autopeft.baselines._base import Fitted
from autopeft.baselines._kept import (
    Kept,
    KeptBaseline,
    KeptModel,
    Record,
    check_option,
    check_rank,
    load_head,
    record_of,
)
from autopeft.baselines._low_rank import WithLowRank
from autopeft.engine.backbone import Backbone
from autopeft.methods import MOST_SIZE
from autopeft.weight_names import HEAD, part

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.settings import TrainingSettings
    from autopeft.models import ModelSource


class Linearised(KeptModel):
    """f(x; w0) + J(x; w0) d, with w0 LoRA's initial weights and d a change of B.

    LoRA's B starts at zero, so a change of A has no effect to first order, and A stays as drawn: no weight is trained
    that the outputs do not depend on.
    """

    def __init__(self, backbone: Backbone, rank: int, sites: tuple[str, ...], seed: int, record: Record) -> None:
        super().__init__()
        # PyTorch has no forward derivative of its fused attention on a CPU.
        backbone.model.set_attn_implementation("eager")
        self.low = WithLowRank(backbone.model, backbone.shape, rank, sites, seed)
        self.model, self._backbone, self._record = backbone.model, backbone, record
        self.low.maps.requires_grad_(False)
        self._start = {n: p.detach() for n, p in self.low.named_parameters() if n.endswith(".B") and "maps." in n}
        self.changes = nn.ParameterList(nn.Parameter(torch.zeros_like(p)) for p in self._start.values())

    def forward(self, **inputs: Any) -> Any:
        """An object with `logits` [B, C]."""

        def logits(weights: dict[str, torch.Tensor]) -> torch.Tensor:
            found: torch.Tensor = functional_call(self.low, weights, (), inputs).logits
            return found

        changes = dict(zip(self._start, self.changes, strict=True))
        value, slope = jvp(logits, (self._start,), (changes,))  # type: ignore[misc]
        return SimpleNamespace(logits=value + slope)

    def trained(self) -> list[nn.Parameter]:
        """The changes, and the head's weights, which are not linearised."""
        return [*self.changes, *self._backbone.head_parameters]

    def kept(self) -> Kept:
        """A as drawn, the changes of B, and the head."""
        a = {n: p.detach() for n, p in self.low.maps.named_parameters() if n.endswith(".A")}
        changes = {f"change.{name}": p.detach() for name, p in zip(self._start, self.changes, strict=True)}
        return Kept(self._record, {f"start.{n}": t for n, t in a.items()} | changes | self._backbone.head_weights)

    @torch.no_grad()
    def set_changes(self, changes: Mapping[str, torch.Tensor]) -> None:
        """Set the changes, by the names in `kept` without `change.`."""
        for name, parameter in zip(self._start, self.changes, strict=True):
            parameter.copy_(changes[name])


@dataclass(frozen=True)
class LLoRA(KeptBaseline):
    """`start` is the seed that A is drawn by: tasks that are to be added up must have the same (`task_arithmetic`)."""

    name: ClassVar[str] = "l_lora"
    description: ClassVar[str] = "LoRA, linearised, so that tasks' weights can be added up (Tang 2023)"
    paper: ClassVar[str] = "Tang et al. 2023 (partial linearisation)"
    family: ClassVar[str] = "reparameterised"
    formula: ClassVar[str] = "r m a map (A stays as drawn)"
    usual_rate: ClassVar[float] = 5e-3

    rank: int = 8
    sites: str = "q,v"
    start: int = 0

    def __post_init__(self) -> None:
        check_option(self, "rank", 1, MOST_SIZE)
        check_option(self, "start", 0, 2**32 - 1)

    def fit(self, source: ModelSource, task: TokenizedTask, settings: TrainingSettings) -> Fitted:
        """Train the changes of B and the head."""
        from autopeft.baselines._training import forward_of, own_backbone, train

        backbone = own_backbone(source, task, settings)
        model = self._linearised(backbone, record_of(self, source, task))
        for parameter in model.trained():
            parameter.requires_grad_(True)
        plain = settings.model_copy(update={"precision": "fp32"})
        trained = train(forward_of(model, task.readout), model.trained(), task, plain, heads=backbone.heads.values())
        model.eval().requires_grad_(False)
        count = sum(p.numel() for p in model.changes)
        kept = model.kept()
        left = sum(t.numel() for name, t in kept.tensors.items() if not name.startswith(HEAD))
        return Fitted(trained.curve, model, count, left, kept.bytes, trained.seconds_per_epoch)

    def restore(self, backbone: Backbone, kept: Kept) -> Linearised:
        """The linearised model that was kept."""
        check_rank(self.rank, kept.tensors)
        model = self._linearised(backbone, kept.record)
        drawn = part(kept.tensors, "start.")
        with torch.no_grad():
            for name, parameter in model.low.maps.named_parameters():
                if name.endswith(".A"):
                    parameter.copy_(drawn[name])
        model.set_changes(part(kept.tensors, "change."))
        load_head(backbone, kept.tensors)
        return model

    def _linearised(self, backbone: Backbone, record: Record) -> Linearised:
        return Linearised(backbone, self.rank, tuple(self.sites.split(",")), self.start, record)
