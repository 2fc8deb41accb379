"""Methods that fold, or that a tuner of stock PEFT holds, are taken home in that form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from test_export import export
from tiny_models import LABELS, LAYERS, METHOD_NAMES, classifier, everywhere, make
from transformers import AutoModelForSequenceClassification

from autopeft.errors import AutopeftError
from autopeft.exporting import format_of, written
from autopeft.hybrid import Hybrid
from autopeft.methods.adalora import AdaLoRA
from autopeft.methods.bitfit import BitFit
from autopeft.methods.compacter import Compacter
from autopeft.methods.delta_lora import DeltaLoRA
from autopeft.methods.dora import DoRA
from autopeft.methods.dylora import DyLoRA
from autopeft.methods.ia3 import IA3
from autopeft.methods.lora import LoRA
from autopeft.methods.lora_fa import LoRAFA
from autopeft.methods.norm import Norm
from autopeft.methods.pasta import PASTA
from autopeft.methods.peft import PeftBlock
from autopeft.methods.prefix import Prefix
from autopeft.methods.prefix_mlp import PrefixMLP
from autopeft.methods.sequential import Sequential
from autopeft.methods.vera import VeRA

FAMILIES = ["bert", "llama", "gpt2"]
LOW_RANK = {0: [AdaLoRA(3, ("q",), 2.0), LoRA(2, ("q", "v"), 3.0)], 1: [DyLoRA(4, ("k",))], 2: [LoRAFA(2, ("down",))]}
STOCK = {
    "LORA": LOW_RANK,
    "DORA": {0: [DoRA(3, ("q", "v"), 2.0)], 2: [DoRA(2, ("q", "down"))]},
    "IA3": {0: [IA3(1)], 1: [IA3(1, ("v",))], 2: [IA3(1, ("k", "down_in"))]},
    "VERA": {0: [VeRA(3, ("q", "v"), 0.5)], 2: [VeRA(5, ("up", "o"))]},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in found.items():
        classifier(family).base_model.save_pretrained(folder)
    return found


def difference(folder: Path, adapter: Path, inputs: Any, logits: torch.Tensor) -> float:
    """The largest relative difference of logits, loaded by PEFT."""
    fresh = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=LABELS)
    with torch.no_grad():
        found = PeftModel.from_pretrained(fresh, adapter).eval()(**inputs).logits
    return ((found - logits).abs().max() / logits.abs().max()).item()


@pytest.mark.parametrize("kind", STOCK)
@pytest.mark.parametrize("family", FAMILIES)
def test_stock_peft_holds_what_it_can(family: str, kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    hybrid = Hybrid.from_layers(LAYERS, STOCK[kind])
    type_, inputs, logits = export(folders[family], hybrid, tmp_path)
    # Slices of a fused map share what PEFT's VeRA lays out one after another.
    assert type_ == ("AUTOPEFT" if (family, kind) == ("gpt2", "VERA") else "LORA" if kind == "DORA" else kind)
    assert difference(folders[family], tmp_path, inputs, logits) < 1e-5
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config.get("use_dora", False) == (kind == "DORA")


@pytest.mark.parametrize("kind", ["vera", "loha"])
def test_a_format_that_was_asked_for_is_no_other(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """PEFT's tuners of a fused map speak of all of it; without asking it becomes AUTOPEFT."""
    method, instead = {"vera": (VeRA(2), "lora"), "loha": (PeftBlock(2, "loha"), "autopeft")}[kind]
    with pytest.raises(AutopeftError, match=rf"^format 'peft': .*; take format {instead}$"):
        export(folders["gpt2"], Hybrid.from_layers(LAYERS, {0: [method]}), tmp_path / "to", "peft")
    assert not (tmp_path / "to").exists()


def test_other_hybrids_keep_frozen_written_and_shared_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    kinds = {
        0: [VeRA(3), AdaLoRA(2), PrefixMLP(3), Norm(1), Compacter(4, ("o",), n=2)],
        1: [DeltaLoRA(2), Prefix(2), PASTA(2), Compacter(4, n=4)],
        2: [BitFit(1), IA3(1), DoRA(2), LoRAFA(2)],
    }
    hybrid = Hybrid.from_layers(LAYERS, kinds)
    type_, inputs, logits = export(folders["bert"], hybrid, tmp_path)
    assert type_ == "AUTOPEFT"
    assert difference(folders["bert"], tmp_path, inputs, logits) < 2e-6
    names = {name.partition("autopeft_banks.")[2] for name in load_file(tmp_path / "adapter_model.safetensors")}
    assert names > {"shared.compacter.A", "shared.compacter1.A", "shared.vera.A", "layers.1.q.delta_lora.change"}
    assert not any("prefix_mlp" in name or "adalora" in name or "lora_fa" in name for name in names)
    # Saved again, they are the same to the bit.
    fresh = AutoModelForSequenceClassification.from_pretrained(folders["bert"], num_labels=LABELS)
    PeftModel.from_pretrained(fresh, tmp_path).save_pretrained(tmp_path / "again")
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_is_taken_home(family: str, name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    hybrid = Hybrid.from_layers(LAYERS, {0: [make(name, 2)], 2: [make(name, 3)]})
    _, inputs, logits = export(folders[family], hybrid, tmp_path)
    assert difference(folders[family], tmp_path, inputs, logits) < 1e-5


def test_formats() -> None:
    vera, mixed = everywhere(VeRA(2)), everywhere(VeRA(2), LoRA(1))
    assert (format_of(None, vera), format_of("lora", vera), format_of(None, mixed)) == ("peft", "lora", "autopeft")
    assert written("lora", mixed) == everywhere(LoRA(3))
    assert written("autopeft", mixed) == mixed
    assert format_of(None, everywhere(LoRA(1), DoRA(1))) == format_of(None, everywhere(IA3(1), LoRA(1))) == "autopeft"
    with pytest.raises(AutopeftError, match=r"^format 'lora': the candidate is no LoRA alone"):
        format_of("lora", everywhere(IA3(1)))
    with pytest.raises(AutopeftError, match=r"^format 'peft': the candidate is not one tuner of PEFT"):
        format_of("peft", everywhere(Sequential(1)))
    with pytest.raises(AutopeftError, match=r"^format 'peft': stock PEFT does not know maps kept as int4"):
        format_of("peft", vera, "int4")
