"""Names of places in families of models with two stacks of layers: rows, no code a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from autopeft.anatomy._family import Family

_T5_DECODER = Family(
    layers="decoder.block",
    attention="layer.0.SelfAttention",
    q="layer.0.SelfAttention.q",
    k="layer.0.SelfAttention.k",
    v="layer.0.SelfAttention.v",
    o="layer.0.SelfAttention.o",
    cross_q="layer.1.EncDecAttention.q",
    cross_k="layer.1.EncDecAttention.k",
    cross_v="layer.1.EncDecAttention.v",
    cross_o="layer.1.EncDecAttention.o",
    up="layer.2.DenseReluDense.wi",
    down="layer.2.DenseReluDense.wo",
    norm1="layer.0.layer_norm",
    norm2="layer.2.layer_norm",
    norm_first=True,
    norm_bias=False,
    heads=(),
    embeddings="shared",
    causal=True,
    pair=True,
    when=(("is_gated_act", True, {"up": "layer.2.DenseReluDense.wi_1", "gate": "layer.2.DenseReluDense.wi_0"}),),
)
_T5 = replace(
    _T5_DECODER,
    layers="encoder.block",
    cross_q="",
    up="layer.1.DenseReluDense.wi",
    down="layer.1.DenseReluDense.wo",
    norm2="layer.1.layer_norm",
    causal=False,
    decoder=_T5_DECODER,
    when=(("is_gated_act", True, {"up": "layer.1.DenseReluDense.wi_1", "gate": "layer.1.DenseReluDense.wi_0"}),),
)
_BART_DECODER = Family(
    layers="decoder.layers",
    attention="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.out_proj",
    cross_q="encoder_attn.q_proj",
    cross_k="encoder_attn.k_proj",
    cross_v="encoder_attn.v_proj",
    cross_o="encoder_attn.out_proj",
    up="fc1",
    down="fc2",
    norm1="self_attn_layer_norm",
    norm2="final_layer_norm",
    heads=(),
    embeddings="shared",
    causal=True,
    query_heads="decoder_attention_heads",
)
_BART = replace(
    _BART_DECODER,
    layers="encoder.layers",
    cross_q="",
    causal=False,
    query_heads="encoder_attention_heads",
    decoder=_BART_DECODER,
)
_MBART = replace(_BART, norm_first=True, decoder=replace(_BART_DECODER, norm_first=True))

#: By the configuration's `model_type`; the row of a decoder's layers stands in that of its encoder's.
ENCODER_DECODERS: Mapping[str, Family] = {
    "t5": _T5,
    "mt5": _T5,
    "bart": _BART,
    "marian": replace(_BART, embeddings="encoder.embed_tokens"),
    "mbart": replace(_MBART, wraps=True),
    "m2m_100": _MBART,
    "pegasus": _MBART,
}
