"""Lottery-ticket sparse fine-tuning over all weights of the backbone. Ansell and others 2022, section 3.1.

Shapes: N entries of the backbone's weights, K of them are changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from autopeft.baselines._base import Fitted
from autopeft.baselines._kept import (
    Kept,
    KeptBaseline,
    KeptModel,
    Record,
    check_option,
    head_tensors,
    load_head,
    part_of,
    record_of,
)
from autopeft.engine.backbone import Backbone

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.settings import TrainingSettings
    from autopeft.models import ModelSource


class Changed(nn.Module):
    """A weight plus a change of some of its entries, which are numbered as in the flattened weight."""

    def __init__(self, indices: torch.Tensor) -> None:
        super().__init__()
        self.indices: torch.Tensor
        self.register_buffer("indices", indices)
        self.values = nn.Parameter(torch.zeros(len(indices), device=indices.device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed weight."""
        flat = weight.flatten().index_add(0, self.indices, self.values.to(weight.dtype))
        return flat.view(weight.shape)


class SparselyChanged(KeptModel):
    """A backbone with K changed entries, and its head."""

    def __init__(self, backbone: Backbone, indices: Mapping[str, torch.Tensor], record: Record) -> None:
        super().__init__()
        self.model, self._backbone, self._record = backbone.model, backbone, record
        self.changes: dict[str, Changed] = {}
        for name, numbers in indices.items():
            path, _, weight = name.rpartition(".")
            self.changes[name] = change = Changed(numbers.long())
            parametrize.register_parametrization(backbone.model.base_model.get_submodule(path), weight, change)

    def trained(self) -> list[nn.Parameter]:
        """The changes and the head's weights."""
        heads = self._backbone.heads.values()
        return [*(c.values for c in self.changes.values()), *(p for head in heads for p in head.parameters())]

    def fold(self) -> None:
        """Write the changes into the weights: what they cost in each pass is then nothing."""
        for name in self.changes:
            path, _, weight = name.rpartition(".")
            parametrize.remove_parametrizations(self.model.base_model.get_submodule(path), weight)  # type: ignore[union-attr]

    def kept(self) -> Kept:
        """Values (fp32) and indices (int32, or int64 in weights of more than 2^31 entries) of the changes; the head."""
        tensors = {}
        for name, change in self.changes.items():
            size = int(change.indices.max()) if len(change.indices) else 0
            tensors[f"values.{name}"] = change.values.detach()
            tensors[f"indices.{name}"] = change.indices.to(torch.int32 if size < 2**31 else torch.int64)
        return Kept(self._record, tensors | head_tensors(self._backbone))


@dataclass(frozen=True)
class LTSFT(KeptBaseline):
    """Full fine-tuning, the K largest changes kept; then from the checkpoint again, and only those are trained.

    K is `share` of all entries outside the head. Each phase has half of the epochs (one at least), an optimiser and a
    schedule of its own, and begins with the same head. Weight decay pulls a change to zero, and so to the checkpoint.
    """

    name: ClassVar[str] = "lt_sft_global"
    description: ClassVar[str] = "full fine-tuning finds the weights to change; only those are trained (Ansell 2022)"
    paper: ClassVar[str] = "Ansell et al. 2022, section 3.1"
    family: ClassVar[str] = "partial"
    formula: ClassVar[str] = "K values (and K indices stored)"
    usual_rate: ClassVar[float] = 2e-4

    share: float = 0.01

    def __post_init__(self) -> None:
        check_option(self, "share", 0.0, 1.0)

    def fit(self, source: ModelSource, task: TokenizedTask, settings: TrainingSettings) -> Fitted:
        """Train both phases; the curve goes on from the first to the second."""
        from autopeft.baselines._training import own_backbone, train_model

        first = settings.model_copy(update={"epochs": max(1, settings.epochs // 2)})
        second = settings.model_copy(update={"epochs": max(1, settings.epochs - first.epochs)})
        backbone = own_backbone(source, task, settings)
        before = {n: p.detach().clone() for n, p in backbone.model.base_model.named_parameters()}
        dense = train_model(backbone.model.requires_grad_(True), task, first)
        backbone.model.requires_grad_(False)
        backbone.reset_head(settings.seed)
        indices = self._largest(backbone, before)
        model = SparselyChanged(backbone, indices, record_of(self, source, task))
        for parameter in model.trained():
            parameter.requires_grad_(True)
        sparse = train_model(model, task, second)
        model.eval().requires_grad_(False)
        kept = model.kept()
        model.fold()
        count = sum(len(numbers) for numbers in indices.values())
        curve = [*dense.curve, *({**e, "epoch": first.epochs + int(e["epoch"])} for e in sparse.curve)]
        seconds = (first.epochs * dense.seconds_per_epoch + second.epochs * sparse.seconds_per_epoch) / (
            first.epochs + second.epochs
        )
        return Fitted(tuple(curve), model, count, count, kept.bytes, seconds, merged=model)

    def restore(self, backbone: Backbone, kept: Kept) -> SparselyChanged:
        """The changes and the head that were kept."""
        indices = part_of(kept.tensors, "indices.")
        model = SparselyChanged(backbone, indices, kept.record)
        values = part_of(kept.tensors, "values.")
        with torch.no_grad():
            for name, change in model.changes.items():
                change.values.copy_(values[name])
        model.fold()
        load_head(backbone, kept.tensors)
        return model

    @torch.no_grad()
    def _largest(self, backbone: Backbone, before: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The numbers of the K entries that moved most, by weight; the weights are put back."""
        weights = dict(backbone.model.base_model.named_parameters())
        moved = torch.cat([(weights[n] - b).abs().flatten() for n, b in before.items()])
        count = max(1, round(self.share * len(moved)))
        chosen = torch.topk(moved, count, sorted=False).indices.sort().values
        found, start = {}, 0
        for name, tensor in before.items():
            weights[name].copy_(tensor)
            own = chosen[(chosen >= start) & (chosen < start + tensor.numel())] - start
            start += tensor.numel()
            if len(own):
                found[name] = own
        return found
