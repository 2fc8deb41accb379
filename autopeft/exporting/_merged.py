"""A hybrid in its backbone's own weights, as an ordinary folder of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autopeft.doors import door
from autopeft.engine.backbone import Backbone
from autopeft.hybrid import Hybrid
from autopeft.merging import merge
from autopeft.readouts import Readout
from autopeft.weight_names import HEAD, HYBRID, part
from autopeft.writing import as_umask


def write_merged(
    hybrid: Hybrid, weights: Mapping[str, torch.Tensor], backbone: Backbone, pad_id: int | None, to: Path
) -> None:
    """Merge a trained hybrid and its head into a backbone, and write that: `config.json` and safetensors in fp32.

    `weights` are those of a pack; `pad_id` is the tokenizer's, which causal classifiers find a text's end by. The
    backbone is another one afterwards. `AutopeftError`, with nothing written, where a method does not merge, or where
    a map would need a bias that models of its kind do not have.
    """
    model: Any = backbone.model
    merge(model, hybrid, part(weights, HYBRID), safe=True)
    for name, head in backbone.heads.items():
        head.load_state_dict(part(weights, f"{HEAD}{name}."))
    _name_classes(model.config, backbone.readout)
    if pad_id is not None and backbone.shape.causal:
        # Not of others: RoBERTa's positions depend on the token that it was built with.
        model.config.pad_token_id = pad_id
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        # The checkpoint's may be one that transformers refuses to save; it is written beside the tokenizer.
        model.generation_config = type(generation)()
    with door(to, "the merged model cannot be written here"):
        model.save_pretrained(str(to))
        as_umask(to)
    if generation is not None:
        model.generation_config = generation


def _name_classes(config: Any, readout: Readout) -> None:
    if readout.labels and readout.configuration().get("num_labels") == len(readout.labels):
        config.id2label = dict(enumerate(readout.labels))
        config.label2id = {name: number for number, name in enumerate(readout.labels)}
