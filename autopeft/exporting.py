"""What a user takes home: trained weights as a PEFT adapter, the hybrid as JSON, and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from autopeft.anatomy import family_of, head_names
from autopeft.candidate import Candidate
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.hybrid import Hybrid
from autopeft.models import BUILT_IN, ModelSource, find_model
from autopeft.snippet import base_lines

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


def write_adapter(
    source: ModelSource, candidate: Candidate, weights: Mapping[str, torch.Tensor], num_labels: int, to: Path
) -> str:
    """Write `adapter_config.json` and `adapter_model.safetensors`; the PEFT type written ("LORA" or "AUTOPEFT").

    A hybrid of LoRA only becomes stock PEFT LoRA, which loads without autopeft.
    """
    to.mkdir(parents=True, exist_ok=True)
    backbone = Backbone(source, num_labels, False, REPORTED, torch.device("cpu"))
    if is_lora_only(candidate.hybrid):
        config, state = stock_lora(candidate.hybrid, weights, backbone.model)
        config.base_model_name_or_path = source.location
        config.save_pretrained(str(to))
        # Not `save_file`, whose files nobody else may read, whatever the umask.
        (to / "adapter_model.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
        return "LORA"
    _write_hybrid(source, candidate.hybrid, weights, backbone.model, to)
    return "AUTOPEFT"


def is_lora_only(hybrid: Hybrid) -> bool:
    """Whether stock PEFT can express it: LoRA, and no other method, in at least one layer."""
    return not hybrid.is_empty and all(m.name == "lora" for methods in hybrid.layers for m in methods)


def stock_lora(
    hybrid: Hybrid, weights: Mapping[str, torch.Tensor], model: PreTrainedModel
) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """A stock PEFT LoRA configuration and its state, equal to the hybrid on `model`.

    Sites that share a fused map (q, k, v of GPT-2) become one LoRA whose rank is the sum of theirs: B is then zero
    outside each site's own rows, and carries the scale.
    """
    from peft import LoraConfig, TaskType

    family, prefix = family_of(model.config), _base_prefix(model)
    modules: dict[str, list[tuple[int, int, float, torch.Tensor, torch.Tensor]]] = {}
    for i, site, method in hybrid.placed():
        place = family.site(site)
        name = f"{prefix}{family.layers}.{i}.{place.module}"
        a, b = (weights[f"hybrid.layers.{i}.{site}.lora.{w}"] for w in ("A", "B"))
        modules.setdefault(name, []).append((place.index, place.parts, method.output_scale(), a, b))
    state, ranks = {}, {}
    for name, parts in modules.items():
        a, b = _joined(parts)
        ranks[name] = a.shape[0]
        state[f"base_model.model.{name}.lora_A.weight"] = a
        state[f"base_model.model.{name}.lora_B.weight"] = b
    for name, tensor in weights.items():
        if name.startswith("head."):
            state[f"base_model.model.{name.removeprefix('head.')}"] = tensor.contiguous()
    # The scale is in B: alpha = r everywhere, so that PEFT's alpha / r is 1 for every rank.
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        inference_mode=True,
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
        target_modules=sorted(ranks),
        modules_to_save=head_names(model),
        fan_in_fan_out=family.site("q").parts > 1,
        lora_dropout=0.0,
    )
    return config, state


def write_record(to: Path, record: Mapping[str, Any]) -> None:
    """Write `hybrid.json`: everything that `evaluate` needs, and what was measured."""
    (to / "hybrid.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_card(to: Path, record: Mapping[str, Any]) -> None:
    """Write the model card, `README.md`."""
    hybrid = Hybrid.from_json(record["hybrid"])
    stock = record["peft_type"] == "LORA"
    metrics = record["metrics"]
    rows = "\n".join(f"| {name} | {value:,.6g} |" for name, value in metrics.items())
    imports, base = _base(record["model"])
    load = _LOAD.format(
        imports=imports if stock else f"import autopeft  # registers the PEFT type AUTOPEFT\n{imports}",
        base=base_lines(find_model(record["model"]["name"], record["trust_remote_code"]), base, record["num_labels"]),
    )
    text = _CARD.format(
        base=record["model"]["name"], task=record["task"]["name"], describe=hybrid.describe(), note=record["splits"],
        key=record["key"], seed=record["seed"], rows=rows, load=load, training=json.dumps(record["training"]),
        remarks="".join(f"\n- {remark}" for remark in record.get("remarks", [])),
        kind="stock PEFT LoRA (autopeft is not needed to load it)" if stock else "PEFT type AUTOPEFT",
    )  # fmt: skip
    (to / "README.md").write_text(text, encoding="utf-8")


def _base(model: Mapping[str, str]) -> tuple[str, str]:
    """Imports and the expression for the base model; a path inside somebody's Python would be of no use to others."""
    built_in = BUILT_IN.get(model["name"])
    if built_in is None:
        return "", json.dumps(model["location"])
    place = f'Path({built_in.package}.__file__).parent / "{built_in.folder}"'
    return f"from pathlib import Path\n\nimport {built_in.package}\n", place


_LOAD = """```python
{imports}from peft import PeftModel
from transformers import AutoModelForSequenceClassification

{base}model = PeftModel.from_pretrained(base, "path/to/this/folder").eval()
```"""

_CARD = """---
library_name: peft
base_model: {base}
tags: [autopeft, peft]
---

# {base} on {task}: {describe}

Found by autopeft. Format: {kind}. Candidate `{key}`, training seed {seed}, training hyper-parameters {training}.

## Measured

Selected on the validation split; metrics that start with `test_` are of the test split, and were not used to select.
Splits: {note}. One training seed.
{remarks}

| metric | value |
| --- | --- |
{rows}

`trainable_params` are those of the hybrid; the task's head (`head_params`) is trained beside it and counted apart.

## Load

{load}

`autopeft evaluate path/to/this/folder` measures it again on the test split.
"""


def _write_hybrid(
    source: ModelSource, hybrid: Hybrid, weights: Mapping[str, torch.Tensor], model: PreTrainedModel, to: Path
) -> None:
    from peft import get_peft_model

    from autopeft.peft_tuner import HybridConfig

    config = HybridConfig(hybrid=hybrid, task_type="SEQ_CLS", inference_mode=False)
    config.base_model_name_or_path = source.location
    wrapped = get_peft_model(model, config)
    layer: Any = wrapped.base_model.model.autopeft
    layer.autopeft_banks["default"].load(_part(weights, "hybrid."))
    for name in head_names(wrapped.base_model.model):
        head: Any = wrapped.base_model.model.get_submodule(name)
        head.modules_to_save["default"].load_state_dict(_part(weights, f"head.{name}."))
    wrapped.save_pretrained(str(to), save_embedding_layers=False)


def _part(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def _base_prefix(model: PreTrainedModel) -> str:
    """Where the base model is inside the model, as a dotted prefix."""
    return f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""


def _joined(
    parts: list[tuple[int, int, float, torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """A [sum r, in] and B [out of the whole map, sum r] of the LoRAs at the slices of one map."""
    a = torch.cat([a for _, _, _, a, _ in parts])
    columns = []
    for index, count, scale, _, b in parts:
        whole = torch.zeros(b.shape[0] * count, b.shape[1])
        whole[index * b.shape[0] : (index + 1) * b.shape[0]] = b * scale
        columns.append(whole)
    return a.contiguous(), torch.cat(columns, dim=1).contiguous()
