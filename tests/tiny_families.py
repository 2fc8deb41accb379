"""Tiny configurations of the families that most tests do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

_TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = _TEXT | {"num_key_value_heads": 2}
_GEMMA = _GROUPED | {"head_dim": 8}
_IMAGE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
          "image_size": 8, "patch_size": 4}  # fmt: skip
_DEBERTA = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["c2p", "p2c"],
            "norm_rel_ebd": "layer_norm", "share_att_key": True, "pooler_hidden_size": 32}  # fmt: skip
_LOCAL = {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2}
_OPTIONS: dict[str, dict[str, Any]] = {
    "mistral": _GROUPED | {"sliding_window": 5},
    "smollm3": _GROUPED,
    "granite": _GROUPED | {"attention_multiplier": 0.3, "residual_multiplier": 0.5},
    "gemma": _GEMMA,
    # Scores are capped, and windows and whole texts alternate.
    "gemma2": _GEMMA | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8, "sliding_window": 5},
    "gemma3_text": _GEMMA | {"query_pre_attn_scalar": 8, "sliding_window": 5, "sliding_window_pattern": 2},
    "olmo2": _GROUPED,
    "phi": _TEXT,
    "phi3": _GROUPED,
    "gpt_neox": _TEXT,
    "opt": _TEXT | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": _TEXT | {"ffn_hidden_size": 48},
    "bloom": {"vocab_size": 99, "hidden_size": 32, "n_layer": 3, "n_head": 4, "pad_token_id": 0},
    "modernbert": _TEXT | _LOCAL,
    "xlm-roberta": _TEXT | {"pad_token_id": 1},
    "camembert": _TEXT | {"pad_token_id": 1},
    "deberta-v2": _TEXT | _DEBERTA,
    "vit": _IMAGE,
    "dinov2": _IMAGE,
    "siglip_vision_model": _IMAGE,
}
IMAGES = ["vit", "dinov2", "siglip_vision_model"]
#: Attention by code of their own.
APART = ["falcon", "bloom", "deberta-v2"]
#: Other arrangements of the same families.
VARIANTS: dict[str, dict[str, Any]] = {
    "falcon-heads": {"multi_query": False, "alibi": True, "parallel_attn": False},
    "falcon-groups": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "gpt_neox-serial": {"use_parallel_residual": False},
    "opt-after": {"do_layer_norm_before": False},
    "phi-grouped": {"num_key_value_heads": 2},
    "deberta-v2-apart": {"share_att_key": False},
}


def _config(family: str, options: dict[str, Any]) -> PretrainedConfig:
    kind = family.partition("-")[0] if family in VARIANTS and not family.startswith("deberta") else family
    kind = "deberta-v2" if family.startswith("deberta") else kind
    config: PretrainedConfig = CONFIG_MAPPING[kind](**_OPTIONS[kind] | VARIANTS.get(family, {}) | options)
    return config


#: A configuration by family or variant.
MORE: dict[str, Callable[..., PretrainedConfig]] = {
    family: lambda family=family, **options: _config(family, options) for family in (*_OPTIONS, *VARIANTS)
}
#: All that the table of names has beside those of most tests.
LISTED = list(_OPTIONS)
