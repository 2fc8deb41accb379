"""A GGUF adapter in llama.cpp's own server: next-token probabilities are the hybrid's, whatever the ranks.

Skipped where `gguf` or `xllamacpp`, which has that server inside, is not installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_models import CONFIGS, LABELS, LAYERS, VOCAB, classifier, perturb, randomise
from tiny_task import classes, save_language_model
from transformers import AutoModelForCausalLM, MistralConfig

from autopeft.candidate import Candidate
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.errors import AutopeftError
from autopeft.exporting import format_of, write_adapter
from autopeft.hybrid import Hybrid
from autopeft.methods.dora import DoRA
from autopeft.methods.lora import LoRA
from autopeft.models import find_model
from autopeft.readouts.causal_lm import CausalLM

# Four ranks, a scale, maps without one, and a layer without any.
MIXED = Hybrid.from_layers(
    LAYERS, {0: [LoRA(2, ("q",), 2.5), LoRA(3, ("v", "o"))], 2: [LoRA(5, ("q", "k")), LoRA(1, ("up", "gate", "down"))]}
)
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
TOKENS = [5, 17, 8, 42, 23, 77, 11]
SCRIPT = """
import json, sys, urllib.request
import xllamacpp as x

asked, tokens, words = json.loads(sys.argv[1])
found = {}
for name, (base, adapter) in asked.items():
    params = x.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup = base, 64, 1, False
    params.cache_type_k = params.cache_type_v = x.ggml_type.GGML_TYPE_F32
    # It rounds to fp16.
    params.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = 1
    if adapter:
        params.lora_adapters = [x.CommonAdapterLoraInfo(adapter, 1.0)]
    server = x.Server(params)
    body = json.dumps({"prompt": tokens, "n_predict": 1, "temperature": 0, "n_probs": words}).encode()
    address, kind = f"{server.listening_address}/completion", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, body, kind), timeout=120) as answer:
        said = json.load(answer)["completion_probabilities"][0]["top_logprobs"]
    found[name] = sorted((entry["id"], entry["logprob"]) for entry in said)
assert "autopeft" not in sys.modules
print(json.dumps(found))
"""


def saved(family: str, folder: Path) -> Path:
    save_language_model(folder, "llama" if family == "mistral" else family)
    if family != "mistral":
        return folder
    config = MistralConfig(**CONFIGS["llama"]().to_diff_dict() | {"model_type": "mistral", "sliding_window": None})
    randomise(AutoModelForCausalLM.from_config(config), 0).save_pretrained(folder)
    return folder


def write_base(model: Any, to: Path) -> None:
    """A language model as GGUF in fp32, as llama.cpp's converter writes it."""
    import gguf

    config, kind = model.config, model.config.model_type
    name = {"mistral": "llama"}.get(kind, kind)
    writer = gguf.GGUFWriter(to, name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    wide = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(wide)
    writer.add_value_length(wide)
    writer.add_rope_dimension_count(wide)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"word{i}" for i in range(config.vocab_size)])
    writer.add_token_types([1] * config.vocab_size)
    writer.add_token_merges(["w o"])
    writer.add_eos_token_id(2)
    arch = {known: number for number, known in gguf.MODEL_ARCH_NAMES.items()}[name]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for full, tensor in model.state_dict().items():
        module, _, ending = full.rpartition(".")
        own = module.rpartition(".")[2]
        if name == "llama" and own in ("q_proj", "k_proj"):
            # llama.cpp turns neighbouring rows of a head by a position, transformers rows of its two halves.
            heads = config.num_attention_heads if own == "q_proj" else config.num_key_value_heads
            tensor = torch.cat([torch.stack(head.chunk(2), 1).flatten(0, 1) for head in tensor.chunk(heads)])
        writer.add_tensor(f"{names.get_name(module)}.{ending}", tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def written(family: str, folder: Path) -> dict[str, torch.Tensor]:
    """Base and export in a folder; log probabilities of the next word [words], of the base alone and of the hybrid."""
    source = find_model(str(saved(family, folder / "base")))
    backbone = Backbone(source, CausalLM(), REPORTED, torch.device("cpu"))
    model, expected = backbone.model, {}

    def said() -> torch.Tensor:
        return model(input_ids=torch.tensor([TOKENS])).logits[0, -1].log_softmax(-1)

    with torch.no_grad():
        expected["alone"] = said()
        write_base(model, folder / "base.gguf")
        with Pack(backbone, [Candidate(MIXED)], TrainingSettings(seed=1)) as pack:
            perturb(pack)
            expected["hybrid"], weights = said(), pack.weights(0)
    assert write_adapter(source, Candidate(MIXED), weights, CausalLM(), folder / "out", "gguf") == "LORA"
    return expected


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Log probabilities by family and whether with the adapter: ours, and the server's. Starting a process is slow."""
    if not all(map(util.find_spec, ("gguf", "xllamacpp"))):
        pytest.skip("gguf or xllamacpp is not installed")
    asked: dict[str, tuple[str, str | None]] = {}
    ours: dict[str, torch.Tensor] = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        for name, said in written(family, folder).items():
            adapter = str(folder / "out" / "adapter.gguf") if name == "hybrid" else None
            ours[f"{family} {name}"], asked[f"{family} {name}"] = said, (str(folder / "base.gguf"), adapter)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([asked, TOKENS, VOCAB])],
        env=dict(os.environ), cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    for pairs in theirs.values():
        assert [number for number, _ in pairs] == list(range(VOCAB))
    return {name: (said, torch.tensor([value for _, value in theirs[name]])) for name, said in ours.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_serves_the_hybrid(family: str, answers: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    alone, bare = answers[f"{family} alone"]
    hybrid, served = answers[f"{family} hybrid"]
    torch.testing.assert_close(bare, alone, rtol=0, atol=1e-3)
    torch.testing.assert_close(served, hybrid, rtol=0, atol=1e-3)
    assert (hybrid - alone).abs().max() > 0.1


def test_it_is_stock_lora_too(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    expected = written("llama", tmp_path)["hybrid"]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"adapter_model.safetensors", "adapter.gguf"}
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        logits = PeftModel.from_pretrained(base, tmp_path / "out").eval()(input_ids=torch.tensor([TOKENS])).logits
    torch.testing.assert_close(logits[0, -1].log_softmax(-1), expected, rtol=0, atol=1e-5)


def test_what_llama_cpp_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match=r"^format 'gguf': llama.cpp knows no DoRA; take merged$"):
        format_of("gguf", Hybrid.uniform(LAYERS, DoRA(1)))
    with pytest.raises(AutopeftError, match=r"^format 'gguf': the candidate is no LoRA alone"):
        format_of("gguf", Hybrid.uniform(LAYERS))
    one = Candidate(Hybrid.uniform(LAYERS, LoRA(1)))
    classifier("llama").base_model.save_pretrained(tmp_path / "head")
    with pytest.raises(AutopeftError, match=r"^format 'gguf': llama.cpp serves language models alone.*; take lora$"):
        write_adapter(find_model(str(tmp_path / "head")), one, {}, classes(LABELS), tmp_path / "out", "gguf")
    save_language_model(tmp_path / "gpt2", "gpt2")
    with pytest.raises(AutopeftError, match=r"^format 'gguf': is written for llama, .*, and this is 'gpt2'; take merg"):
        write_adapter(find_model(str(tmp_path / "gpt2")), one, {}, CausalLM(), tmp_path / "out", "gguf")
    assert not (tmp_path / "out").exists()
