"""LoRA on a 4-bit backbone that begins near the fp32 model. Li et al. 2023, algorithm 1.

The backbone differs by the rank and by where LoRA is, so no two candidates could share one: that makes it a baseline.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.baselines._base import Baseline, Fitted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.settings import TrainingSettings
    from autopeft.models import ModelSource
    from autopeft.quantising import Kind

RANK, SITES = 8, ("q", "v")


class LoftQ(Baseline):
    """LoRA of rank 8 at q and v of every layer, of scale 1, on nf4 (or on fp4 or int4, where the source says so).

    The backbone's integers follow from the checkpoint and the rank, so only the factors are stored.
    """

    name: ClassVar[str] = "loftq"
    description: ClassVar[str] = "LoRA (r = 8; q, v) and a 4-bit backbone that start near the fp32 model (Li 2023)"
    paper: ClassVar[str] = "Li et al. 2023, algorithm 1"
    family: ClassVar[str] = "reparameterised"
    formula: ClassVar[str] = "r (in + out)"
    usual_rate: ClassVar[float] = 1e-3

    def fit(self, source: ModelSource, task: TokenizedTask, settings: TrainingSettings) -> Fitted:
        """Train the factors and the head; the model that is given back keeps its factors beside the backbone."""
        from autopeft.attaching import attach
        from autopeft.baselines._training import own_backbone, train_model
        from autopeft.hybrid import Hybrid
        from autopeft.methods import METHODS

        kind: Kind = source.quantise if source.quantise in ("fp4", "int4") else "nf4"
        backbone = own_backbone(replace(source, quantise=kind), task, settings)
        lora: Any = METHODS.get("lora")
        hybrid = Hybrid.uniform(backbone.shape.layers, lora(rank=RANK, sites=SITES))
        attachment = attach(backbone.model, hybrid, settings.seed)
        plain = own_backbone(replace(source, quantise=None), task, settings).model
        attachment.banks.load(begin(backbone.model, plain))
        trained = train_model(backbone.model, task, settings, backbone.heads.values())
        count = hybrid.num_params(backbone.shape)
        return Fitted(
            curve=trained.curve,
            model=backbone.model,
            trainable_params=count,
            kept_params=count,
            stored_bytes=4 * count,
            seconds_per_epoch=trained.seconds_per_epoch,
        )


def begin(model: PreTrainedModel, plain: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Requantise the maps of `model` that LoRA is at, for the weights of `plain`; the factors, as banks name them."""
    from autopeft.anatomy import layers_of, shape_of
    from autopeft.quantising.loftq import loftq
    from autopeft.quantising.weights import dequantised

    shape, found = shape_of(model), dict[str, "torch.Tensor"]()
    for i, (layer, original) in enumerate(zip(layers_of(model), layers_of(plain), strict=True)):
        maps: dict[str, list[str]] = {}
        own = shape.at(i)
        for site in SITES:
            maps.setdefault(own.row.site(site).module, []).append(site)
        for name, sites in maps.items():
            places = {own.rows(site): site for site in sites}
            weight = dequantised(original.get_submodule(name))
            factors, _ = loftq(layer.get_submodule(name), weight, dict.fromkeys(places, RANK))
            for rows, (a, b) in factors.items():
                found |= {f"layers.{i}.{places[rows]}.lora.A": a, f"layers.{i}.{places[rows]}.lora.B": b}
    return found
