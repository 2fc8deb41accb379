"""Memory: what a training takes against its closed form, and what a large vocabulary costs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import CONFIGS, LAYERS, everywhere

from autopeft.anatomy import TrainingLoad, shape_from_config
from autopeft.budget import Budget
from autopeft.costs import COSTS
from autopeft.engine.load import load_of
from autopeft.engine.settings import TrainingSettings
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA

ROOT = Path(__file__).parents[1]
SHAPE = shape_from_config(CONFIGS["llama"](), auto_class="AutoModelForCausalLM")
COST = COSTS.get("training_memory")()
HYBRID = everywhere(LoRA(4, sites=("q", "v")))
TOP = Hybrid.from_layers(LAYERS, {LAYERS - 1: [LoRA(4, sites=("q", "v"))]})


def memory(hybrid: Hybrid = HYBRID, length: int = 16, **load: float) -> int:
    return COST.of(hybrid, replace(SHAPE, load=replace(TrainingLoad(), **load)), length)  # type: ignore[arg-type]


def test_what_takes_less_memory() -> None:
    whole = memory()
    assert memory(TOP) < whole
    assert memory(checkpoint=True) < whole
    assert memory(sequences=8) < whole
    assert memory(length=8) < whole
    assert memory(bytes=2, map_bytes=2) < whole
    assert memory(map_bytes=0.5) < whole
    assert memory(tokens=64) < whole
    assert memory(everywhere()) < memory(TOP)
    # One part of 4,096 tokens at a time, however many sequences.
    assert memory(sequences=4_096) == memory(sequences=256)


def test_settings_and_device_are_the_load() -> None:
    settings = TrainingSettings(batch_tokens=4_096, max_length=64, precision="bf16", checkpoint=True)
    assert load_of(settings, kind="cpu") == TrainingLoad(64, 4_096, 2, 2, True, True, 2**23)
    assert load_of(TrainingSettings(batch_size=5), "nf4", "cpu").map_bytes == pytest.approx(0.5, abs=0.1)


def test_a_limit_in_bytes() -> None:
    assert Budget.resolve({"training_memory": "8GB"}, SHAPE, 16).limits == {"training_memory": 8 * 10**9}
    assert Budget.resolve({"stored_bytes": "5 kB"}, SHAPE, 16).limits == {"stored_bytes": 5_000}
    with pytest.raises(AutopeftError, match=r"budget.trainable_params: expected a number.*'8MB'"):
        Budget.resolve({"trainable_params": "8MB"}, SHAPE, 16)


_LARGE = """
import torch
from pathlib import Path
from autopeft.readouts._frozen_head import FrozenHead

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))

torch.set_num_threads(1)
head = torch.nn.Linear(896, 151_936, bias=False).requires_grad_(False)
hidden = torch.randn(1024, 896, requires_grad=True)
torch.randn(64, 896) @ torch.randn(896, 64)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
FrozenHead(head, None, 1.0, None).losses(hidden, torch.randint(151_936, (1024,)))[:, 0].mean().backward()
print(status("VmHWM") - before)
"""


@pytest.mark.slow
def test_a_large_vocabulary_takes_little_memory() -> None:
    found = subprocess.run([sys.executable, "-c", _LARGE], check=True, capture_output=True, text=True).stdout
    assert int(found) < 300e6


@pytest.mark.slow
def test_the_closed_form_is_what_training_takes() -> None:
    script = ROOT / "experiments" / "benchmarks" / "training_memory.py"
    done = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True)
    rows = [line.rsplit(maxsplit=1) for line in done.stdout.splitlines()]
    assert len(rows) == 7
    for title, ratio in rows:
        assert float(ratio) == pytest.approx(1, abs=0.15), title
