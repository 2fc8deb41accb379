"""What a user takes home loads elsewhere: LoRA without autopeft, in a process that never imports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from tiny_models import FAMILIES, LABELS, LAYERS, classifier, everywhere, perturb, right_padded
from tiny_task import classes
from transformers import AutoModelForSequenceClassification

from autopeft.anatomy import SITES
from autopeft.candidate import Candidate
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.exporting import Format, is_lora_only, write_adapter
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential
from autopeft.models import find_model

#: Ranks differ between layers and, in a fused map, between sites; scales are not 1.
RANKS = Hybrid.from_layers(
    LAYERS,
    {
        0: [LoRA(2, sites=("q",), scale=2.5), LoRA(3, sites=("v",), alpha=12)],
        2: [LoRA(5, sites=("k", "v"), scale=0.5), LoRA(1, sites=("o", "up"), scale=3), LoRA(4, sites=("down",))],
    },
)
#: One site only, so that the other slices of a fused map stay as they are; as many layers as one expression can match.
ONE_SITE = everywhere(LoRA(2, sites=("k",), scale=1.5))
EVERY_SITE = everywhere(LoRA(3, sites=SITES, alpha=1))
STOCK = {"ranks": RANKS, "one": ONE_SITE, "every": EVERY_SITE}


def cases(family: str) -> list[str]:
    """All of them for one family of a kind: separate maps, fused maps, grouped heads and a gate."""
    return list(STOCK) if family in ("bert", "gpt2", "llama") else ["ranks"]


SCRIPT = """
import json, sys
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

torch.set_num_threads(1)
found = {}
for name, base, adapter, labels in json.loads(sys.argv[1]):
    inputs = load_file(adapter + "/inputs.safetensors")
    expected = inputs.pop("logits")
    fresh = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    model = PeftModel.from_pretrained(fresh, adapter).eval()
    found[name] = []
    for step in (lambda: model, model.merge_and_unload):
        with torch.no_grad():
            difference = (step().eval()(**inputs).logits - expected).abs().max()
        found[name].append((difference / expected.abs().max()).item())
assert "autopeft" not in sys.modules
print(json.dumps(found))
"""


def export(
    folder: Path, hybrid: Hybrid, to: Path, asked: Format | None = None
) -> tuple[str, dict[str, torch.Tensor], torch.Tensor]:
    """The PEFT type written to `to`, inputs, and the logits that the hybrid gives for them, weights noisy."""
    source = find_model(str(folder))
    backbone = Backbone(source, classes(LABELS), REPORTED, torch.device("cpu"))
    with (
        Pack(backbone, [Candidate(hybrid)], TrainingSettings(head="drawn", method_rates="shared", seed=1)) as pack,
        torch.no_grad(),
    ):
        perturb(pack)
        weights = pack.weights(0)
        inputs = right_padded(backbone.model, (7, 4, 1))
        logits = backbone.model(**inputs).logits
    return write_adapter(source, Candidate(hybrid), weights, classes(LABELS), to, asked), inputs, logits


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in found.items():
        classifier(family).base_model.save_pretrained(folder)
    return found


@pytest.fixture(scope="module")
def differences(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Largest relative difference of logits, loaded and merged, by "<family> <hybrid>"; starting a process is slow."""
    tasks = []
    for family, base in folders.items():
        for name in cases(family):
            hybrid = STOCK[name]
            to = tmp_path_factory.mktemp("adapter")
            written, inputs, logits = export(base, hybrid, to)
            assert written == "LORA"
            save_file(inputs | {"logits": logits}, to / "inputs.safetensors")
            tasks.append([f"{family} {name}", str(base), str(to), LABELS])
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(tasks)],
        env=env, cwd=tmp_path_factory.mktemp("elsewhere"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for complaint in ("missing adapter keys", "fan_in_fan_out"):
        assert complaint not in done.stderr
    result: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in FAMILIES for name in cases(family)])
def test_lora_loads_as_stock_peft_without_autopeft(family: str, name: str, differences: dict[str, list[float]]) -> None:
    wrapped, merged = differences[f"{family} {name}"]
    assert wrapped < 1e-6, f"largest difference {wrapped}"
    assert merged < 1e-5, f"largest difference {merged}"


@pytest.mark.parametrize("family", FAMILIES)
def test_other_hybrids_load_with_autopeft(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    hybrid = Hybrid.from_layers(LAYERS, {0: [LoRA(2, scale=2.5), Prefix(2)], 2: [Sequential(3)]})
    written, inputs, logits = export(folders[family], hybrid, tmp_path)
    fresh = AutoModelForSequenceClassification.from_pretrained(folders[family], num_labels=LABELS)
    model = PeftModel.from_pretrained(fresh, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, logits, rtol=1e-6, atol=1e-6)
    assert written == json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "AUTOPEFT"


@pytest.mark.parametrize("hybrid", [ONE_SITE, everywhere(Prefix(2))])
def test_all_files_can_be_read_by_whoever_the_umask_lets(
    hybrid: Hybrid, folders: dict[str, Path], tmp_path: Path
) -> None:
    for umask in (0o022, 0o077):
        before = os.umask(umask)
        try:
            export(folders["bert"], hybrid, tmp_path / str(umask))
        finally:
            os.umask(before)
        files = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / str(umask)).iterdir()}
        assert files.keys() >= {"adapter_config.json", "adapter_model.safetensors"}
        assert set(files.values()) == {0o666 & ~umask}


@pytest.mark.parametrize("hybrid", [ONE_SITE, everywhere(Prefix(2), Sequential(3))])
def test_an_export_loads_through_transformers_alone(hybrid: Hybrid, folders: dict[str, Path], tmp_path: Path) -> None:
    _, inputs, logits = export(folders["bert"], hybrid, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=LABELS)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**inputs).logits, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_head_alone_is_taken_home_too(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    written, inputs, logits = export(folders[family], everywhere(), tmp_path)
    fresh = AutoModelForSequenceClassification.from_pretrained(folders[family], num_labels=LABELS)
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(fresh, tmp_path).eval()(**inputs).logits
    torch.testing.assert_close(loaded, logits, rtol=1e-6, atol=1e-6)
    # In a configuration of LoRA for no map at all, which PEFT takes.
    assert written == "LORA"


@pytest.mark.parametrize(
    ("hybrid", "stock"),
    [(RANKS, True), (everywhere(), False), (everywhere(Prefix(1)), False), (everywhere(LoRA(1), Prefix(1)), False)],
)
def test_only_lora_alone_is_stock(hybrid: Any, stock: bool) -> None:
    assert is_lora_only(hybrid) == stock
