"""A quantised backbone: what is trained on it is as on any other, and nothing writes to it or reads it wrongly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_models import LAYERS, perturb, right_padded
from tiny_packs import SETTINGS
from tiny_quantised import KINDS, quantised, wide_bench
from tiny_task import classes, save_model, tags
from torch import nn

from autopeft.anatomy import layers_of, shape_of
from autopeft.candidate import Candidate
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.engine.pack import Pack
from autopeft.engine.sharing import map_frozen, write_frozen
from autopeft.errors import AutopeftError
from autopeft.exporting import write_adapter
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.methods.qa_lora import QALoRA
from autopeft.methods.sequential import Sequential
from autopeft.models import find_model
from autopeft.quantising import Kind, check_installed, kind_of
from autopeft.quantising.loading import bytes_in_memory
from autopeft.quantising.weights import changed, dequantised, memory
from autopeft.snippet import base_lines

#: Of the weight that a map computes with, to that of the checkpoint; a random map.
ERROR = {"nf4": 0.1, "fp4": 0.13, "int8": 0.01, "int4": 0.09}

_BELOW = {0: [LoRA(3, sites=("q", "down")), Prefix(2)], 2: [QALoRA(2, sites=("v",), scale=2.0)]}
_ABOVE = {1: [LoRA(5, sites=("q", "up")), Sequential(4)], 2: [Prefix(3), QALoRA(4)]}
MEMBERS = [
    Candidate(Hybrid.from_layers(LAYERS, layers), {"learning_rate": rate})
    for layers, rate in ((_BELOW, 3e-3), (_ABOVE, 1e-3), ({2: [Sequential(2)]}, 3e-3))
]


def kept(model: nn.Module) -> dict[str, tuple[type, torch.Tensor, torch.Tensor]]:
    """By name: class, stored numbers and dequantised weight of each quantised map."""
    found = {n: m for n, m in model.named_modules() if kind_of(m)}
    return {n: (type(m), m.weight.data.clone(), dequantised(m)) for n, m in found.items()}


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_layers_and_no_others_are_quantised_and_compute_with_what_is_read(
    kind: Kind, family: str, tmp_path: Path
) -> None:
    source = quantised(tmp_path / "model", kind, family)
    plain, model = (s.model(classes(3), torch.float32) for s in (find_model(source.location), source))
    inside = {id(m) for layer in layers_of(model) for m in layer.modules()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or kind_of(module):
            assert (kind_of(module) == kind) == (id(module) in inside), name
    for name, (_, _, weight) in kept(model).items():
        original = dequantised(plain.get_submodule(name))
        assert 0 < (weight - original).norm() < ERROR[kind] * original.norm()
        module, x = model.get_submodule(name), torch.randn(5, original.shape[1])
        torch.testing.assert_close(module(x) - module(0 * x), x @ weight.T, rtol=1e-4, atol=1e-5)
    assert shape_of(model) == shape_of(plain) == source.shape()
    assert memory(model.base_model) == bytes_in_memory(source.config(), kind) < memory(plain.base_model)
    assert bytes_in_memory(source.config(), None) == memory(plain.base_model)


@pytest.mark.parametrize(("kind", "family"), [("nf4", "bert"), ("int4", "llama")])
def test_the_numbers_are_those_of_fp32_weights_in_any_precision(kind: Kind, family: str, tmp_path: Path) -> None:
    if kind == "nf4":
        pytest.importorskip("bitsandbytes")
    source = quantised(tmp_path / "model", kind, family)
    full, half = (source.model(classes(3), dtype) for dtype in (torch.float32, torch.bfloat16))
    assert next(half.base_model.parameters()).dtype == torch.bfloat16
    for name, (_, stored, _) in kept(full).items():
        assert torch.equal(stored, half.get_submodule(name).weight.data)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_from_frozen_layers_is_alone_and_the_backbone_stays_as_it_was(kind: Kind, tmp_path: Path) -> None:
    bench = wide_bench(tmp_path / "model", kind)
    before, members = kept(bench.backbone.model), MEMBERS
    alone = [bench.train([member])[0] for member in members]
    packed = bench.train(members, bench.frozen())
    for one, other in zip(packed, alone, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-5)
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)
        assert abs(one.losses[0] - sum(one.losses[-6:]) / 6) > 1e-3
    after = kept(bench.backbone.model)
    assert before.keys() == after.keys()
    for name, (cls, stored, weight) in before.items():
        assert after[name][0] is cls
        assert torch.equal(after[name][1], stored)
        assert torch.equal(after[name][2], weight)


def test_the_backbone_keeps_no_dequantised_weights_for_the_backward_pass(tmp_path: Path) -> None:
    bench = wide_bench(tmp_path / "model", "int4")
    maps = {m.weight.numel() * 2 for m in bench.backbone.model.modules() if kind_of(m)}
    saved: list[int] = []
    x = torch.randn(2, 7, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        layers_of(bench.backbone.model)[0].get_submodule("attention.self.query")(x).sum().backward()
    assert not maps & set(saved)
    weight = dequantised(layers_of(bench.backbone.model)[0].get_submodule("attention.self.query"))
    torch.testing.assert_close(x.grad, weight.sum(0).expand_as(x))


def test_a_weight_that_bitsandbytes_has_repacked_is_read_right() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import _convert_weight_packed_for_cpu

    made = bitsandbytes.nn.Linear4bit(128, 64, quant_type="nf4", compress_statistics=False)
    made.weight.data.copy_(torch.randn(64, 128, generator=torch.Generator().manual_seed(0)))
    made = made.to("cpu")
    before = dequantised(made)
    made.weight.data, made.weight.quant_state = _convert_weight_packed_for_cpu(
        made.weight.data, made.weight.quant_state
    )
    # Its scales are in bf16 now.
    torch.testing.assert_close(dequantised(made), before, rtol=2**-7, atol=0)
    torch.testing.assert_close(dequantised(made), dequantised(made))


@pytest.mark.parametrize("kind", KINDS)
def test_workers_share_one_copy(kind: Kind, tmp_path: Path) -> None:
    source = quantised(tmp_path / "model", kind)
    model, other = (source.model(classes(3), torch.float32) for _ in range(2))
    for head in ("weight", "bias"):
        getattr(other.classifier, head).copy_(getattr(model.classifier, head))
    inputs = right_padded(model, (7, 4))
    expected = model(**inputs).logits
    for module in other.modules():
        if kind_of(module):
            # So that it is the file that counts.
            module.weight.data.zero_()
    assert map_frozen(other, write_frozen(model, tmp_path / "frozen.safetensors"))
    assert torch.equal(other(**inputs).logits, expected)


# --- merging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_map_is_fp32_and_exact(kind: Kind, tmp_path: Path) -> None:
    model = quantised(tmp_path / "model", kind).model(classes(3), torch.float32)
    module = layers_of(model)[1].get_submodule("output.dense")
    update = torch.randn(64, 128) * 0.01
    made = changed(module, dequantised(module) + update, module.bias)
    assert type(made) is nn.Linear
    x = torch.randn(3, 128)
    torch.testing.assert_close(made(x), module(x) + x @ update.T, rtol=1e-5, atol=1e-5)


def test_what_is_one_number_a_group_moves_zero_points_only(tmp_path: Path) -> None:
    model = quantised(tmp_path / "model", "int4").model(classes(3), torch.float32)
    module = layers_of(model)[1].get_submodule("output.dense")
    update = (torch.randn(64, 4) * 0.1).repeat_interleave(32, dim=1)
    made = changed(module, dequantised(module) + update, module.bias)
    assert type(made) is type(module)
    assert torch.equal(made.weight, module.weight)
    assert torch.equal(made.scales, module.scales)
    assert not torch.equal(made.zeros, module.zeros)
    x = torch.randn(3, 128)
    torch.testing.assert_close(made(x), module(x) + x @ update.T, rtol=1e-5, atol=3e-6)


def test_stock_lora_merges_into_the_dequantised_model(tmp_path: Path) -> None:
    """As the card says; merged into 4 bits again it is another model."""
    pytest.importorskip("bitsandbytes")
    source, candidate = quantised(tmp_path / "model", "nf4"), Candidate(Hybrid.uniform(LAYERS, LoRA(3)))
    backbone = Backbone(source, classes(3), REPORTED, torch.device("cpu"))
    with Pack(backbone, [candidate], SETTINGS) as pack, torch.no_grad():
        perturb(pack, scale=0.05)
        inputs, weights = right_padded(backbone.model, (7, 4)), pack.weights(0)
        expected = backbone.model(**inputs).logits
    write_adapter(source, candidate, weights, classes(3), tmp_path / "out")
    base = source.model(classes(3), torch.float32)
    merged = PeftModel.from_pretrained(base.dequantize(), tmp_path / "out").merge_and_unload()
    torch.testing.assert_close(merged(**inputs).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_tagger_is_kept_so_too(tmp_path: Path) -> None:
    """It has no pooler, and its head is trained as it is."""
    source, readout = quantised(tmp_path / "model", "int4"), tags().readout
    model, config = source.model(readout, torch.float32), source.config(**readout.configuration())
    assert kind_of(layers_of(model)[0].get_submodule("output.dense")) == "int4"
    assert kind_of(model.classifier) is None
    assert memory(model.base_model) == bytes_in_memory(config, "int4", auto_class=readout.auto_class)
    lines = base_lines(source, '"here"', readout)
    assert "base = AutoModelForTokenClassification.from_pretrained(" in lines
    assert "quantise_uniform(base, skip=['classifier'])" in lines


# --- bad input -------------------------------------------------------------------------------------------------------


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("autopeft.quantising.find_spec", lambda name: None)
    with pytest.raises(AutopeftError, match=r"quantise nf4 needs the package bitsandbytes; pip install 'autopeft\["):
        quantised(tmp_path / "model", "nf4").model(classes(3), torch.float32)
    check_installed("int4", "here")


def test_widths_that_would_be_read_wrongly_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(AutopeftError, match=r"quantise nf4 needs maps whose inputs are a multiple of 64.* take int8"):
        replace(find_model(str(save_model(tmp_path))), quantise="nf4").model(classes(3), torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_gives_the_dequantised_weight(kind: Kind, tmp_path: Path) -> None:
    bench = wide_bench(tmp_path / "model", kind, "gpt2")
    with Pack(bench.backbone, [Candidate(Hybrid.uniform(LAYERS, LoRA(2, sites=("v",))))], bench.settings) as pack:
        (bank,) = pack.attachment.banks.at(1)["v"]
        whole = dequantised(layers_of(bench.backbone.model)[1].get_submodule("attn.c_attn"))
        assert torch.equal(bank.place.weight(), whole[2 * 64 :])
