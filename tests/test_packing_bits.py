"""Exports of methods whose weights take fewer bits: as small as their cost says, and the same logits by every door."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_export import Project
from tiny_models import CONFIGS, LABELS, LAYERS, classifier, perturb, right_padded
from tiny_task import classes
from torch import nn
from transformers import AutoModelForSequenceClassification

from autopeft.anatomy import shape_from_config
from autopeft.candidate import Candidate
from autopeft.costs import COSTS
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.errors import AutopeftError
from autopeft.exporting import write_adapter
from autopeft.exporting.evaluation import measure_export, open_export
from autopeft.hybrid import Hybrid
from autopeft.methods.lt_sft import LTSFT
from autopeft.methods.propetl import ProPETL
from autopeft.methods.sparse_adapter import SparseAdapter
from autopeft.methods.threshold_mask import ThresholdMask
from autopeft.models import find_model
from autopeft.packing_bits import STATE
from autopeft.peft_layer import as_dense
from autopeft.peft_tuner import HybridConfig

#: Two sizes and places that are not full bytes; one layer has none.
HYBRIDS = {
    "threshold_mask": Hybrid.from_layers(LAYERS, {0: [ThresholdMask(1, ("q", "down"))], 2: [ThresholdMask(1, ("v",))]}),
    "propetl": Hybrid.from_layers(LAYERS, {0: [ProPETL(3, ("o", "down"))], 2: [ProPETL(5, keep=0.3)]}),
    "lt_sft": Hybrid.from_layers(LAYERS, {0: [LTSFT(21, ("q", "down"))], 2: [LTSFT(7)]}),
    "sparse_adapter": Hybrid.from_layers(
        LAYERS, {0: [SparseAdapter(3, ("o", "down"))], 2: [SparseAdapter(5, keep=0.5)]}
    ),
}
#: What their files hold, dense tensors left out.
HELD = {
    "threshold_mask": {"scores_bits"},
    "propetl": {"down_scores_bits", "up_scores_bits"},
    "lt_sft": {"change_values", "change_mask_places"},
    "sparse_adapter": {"down_values", "down_mask_bits", "up_values", "up_mask_bits"},
}
WEIGHTS = "adapter_model.safetensors"
each = pytest.mark.parametrize("name", HYBRIDS)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for family in ("bert", "llama"):
        found[family] = tmp_path_factory.mktemp(family)
        classifier(family).save_pretrained(found[family])
    return found


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    """PEFT warns where it leaves weights as they were drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def fresh(base: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=LABELS).eval()


def export(base: Path, hybrid: Hybrid, to: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Write an export of noisy weights; inputs, and the logits of PEFT's model with just these weights."""
    source = find_model(str(base))
    with Pack(
        Backbone(source, classes(LABELS), REPORTED, torch.device("cpu")), [Candidate(hybrid)], TrainingSettings()
    ) as pack:
        with torch.no_grad():
            perturb(pack)
        weights = pack.weights(0)
    assert write_adapter(source, Candidate(hybrid), weights, classes(LABELS), to) == "AUTOPEFT"
    model = get_peft_model(fresh(base), HybridConfig(hybrid=hybrid, task_type="SEQ_CLS")).eval()
    own = {n.removeprefix("hybrid."): w for n, w in weights.items() if n.startswith("hybrid.")}
    model.base_model.model.autopeft.autopeft_banks["default"].load(own)
    for name, tensor in weights.items():
        if name.startswith("head."):
            module, _, weight = name.removeprefix("head.").rpartition(".")
            head = model.base_model.model.get_submodule(module).modules_to_save["default"]
            getattr(head, weight).data.copy_(tensor)
    inputs = right_padded(model.get_base_model(), (7, 4, 1))
    return inputs, logits(model, inputs)


@torch.no_grad()
def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**inputs).logits


@pytest.mark.parametrize("family", ["bert", "llama"])
@each
def test_an_export_is_packed_and_loads_to_the_bit(
    name: str, family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    base, hybrid = bases[family], HYBRIDS[name]
    inputs, wanted = export(base, hybrid, tmp_path / "out")
    state = load_file(tmp_path / "out" / WEIGHTS)
    assert {key.split(".")[-2] for key in state if key.endswith(STATE)} == HELD[name]
    # The rule: a tensor of bits takes whole bytes, nothing lies between tensors.
    header = 8 + int.from_bytes((tmp_path / "out" / WEIGHTS).read_bytes()[:8], "little")
    head = sum(t.nbytes for key, t in state.items() if "autopeft_banks" not in key)
    stored = COSTS.get("stored_bytes")().of(hybrid, shape_from_config(CONFIGS[family]()), 8)
    over = (tmp_path / "out" / WEIGHTS).stat().st_size - header - head - stored
    assert 0 <= over <= sum(t.dtype == torch.uint8 for t in state.values())
    for options in ({}, {"low_cpu_mem_usage": True}):
        model = PeftModel.from_pretrained(fresh(base), tmp_path / "out", **options).eval()
        assert torch.equal(logits(model, inputs), wanted)
    model.load_adapter(tmp_path / "out", "b")
    model.set_adapter("b")
    assert torch.equal(logits(model, inputs), wanted)
    model.save_pretrained(tmp_path / "again")
    assert all(torch.equal(t, state[key]) for key, t in load_file(tmp_path / "again" / "b" / WEIGHTS).items())


@each
def test_transformers_loads_what_is_packed(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    inputs, wanted = export(bases["bert"], HYBRIDS[name], tmp_path / "out")
    model = fresh(bases["bert"])
    model.load_adapter(str(tmp_path / "out"))
    torch.testing.assert_close(logits(model, inputs), wanted, rtol=1e-5, atol=1e-5)
    whole = PeftModel.from_pretrained(fresh(bases["bert"]), tmp_path / "out").get_base_model()
    banks = [m.autopeft.autopeft_banks["default"].weights() for m in (model, whole)]
    assert all(torch.equal(tensor, banks[1][key]) for key, tensor in banks[0].items())


@each
def test_weights_in_training_stay_dense_where_bits_would_lose_them(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    model = get_peft_model(fresh(bases["bert"]), HybridConfig(hybrid=HYBRIDS[name], task_type="SEQ_CLS")).eval()
    perturb(nn.ParameterList(p for p in model.parameters() if p.requires_grad), 3)
    inputs = right_padded(model.get_base_model(), (7, 4, 1))
    model.save_pretrained(tmp_path / "dense")
    assert not any(key.endswith(STATE) for key in load_file(tmp_path / "dense" / WEIGHTS))
    again = PeftModel.from_pretrained(fresh(bases["bert"]), tmp_path / "dense").eval()
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    states = [m.state_dict() for m in (again, model)]
    again.load_state_dict(states[1])
    assert all(torch.equal(t, states[1][key]) for key, t in again.state_dict().items())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_export_is_opened_and_measured_packed_and_as_it_was_before(tmp_path: Path) -> None:
    methods = ThresholdMask(1, ("q",)), LTSFT(9, ("v",)), ProPETL(3, ("o",)), SparseAdapter(3, ("down",))
    out = Project.of(tmp_path).export(tmp_path / "out", Hybrid.from_layers(LAYERS, {0: methods[:2], 1: methods[2:]}))
    packed, dense, model = load_file(out / WEIGHTS), tmp_path / "dense", open_export(out).model
    shutil.copytree(out, dense)
    state = {key: t.contiguous() for key, t in as_dense(model, "default", packed).items()}
    assert sum(key.endswith(STATE) for key in packed) == 1 + 2 + 2 + 4
    assert not any(key.endswith(STATE) for key in state)
    save_file(state, dense / WEIGHTS, metadata={"format": "pt"})
    inputs = right_padded(model.get_base_model(), (7, 4, 1))
    assert torch.equal(logits(open_export(dense).model, inputs), logits(model, inputs))
    assert measure_export(dense) == measure_export(out)
    save_file(_damage(packed, "change_mask_places", _set(0, -1)), out / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(AutopeftError, match=rf"^[^\n]*{WEIGHTS}: layers.0.v.lt_sft.change_mask_places[^\n]*$"):
        open_export(out)


def _damage(state: dict[str, torch.Tensor], weight: str, change: Callable[[torch.Tensor], Any]) -> Any:
    key = next(key for key in state if key.endswith(f".{weight}.{STATE}"))
    return state | {key: change(state[key])}


def _set(at: int, value: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[at] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("name", "weight", "change", "at", "said"),
    [
        ("threshold_mask", "scores_bits", lambda t: t[:-1].clone(), "bits", "does not hold the 1536 bits of a mask"),
        ("threshold_mask", "scores_bits", lambda t: t.float(), "bits", "is no row of torch.uint8"),
        ("lt_sft", "change_mask_places", _set(-1, 10**6), "places", "its places are not ascending ones of a tensor"),
        ("lt_sft", "change_mask_places", _set(0, -1), "places", "its places are not ascending ones of a tensor"),
        ("lt_sft", "change_values", lambda t: t[1:].clone(), "values", "20 values for the 21 places of its mask"),
        ("sparse_adapter", "down_mask_bits", _set(0, 255), "values", "values for the .* places of its mask"),
    ],
)
def test_a_damaged_tensor_is_one_line(
    name: str, weight: str, change: Any, at: str, said: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    export(bases["bert"], HYBRIDS[name], tmp_path / "out")
    path = tmp_path / "out" / WEIGHTS
    save_file(_damage(load_file(path), weight, change), path, metadata={"format": "pt"})
    loads = [lambda: PeftModel.from_pretrained(fresh(bases["bert"]), tmp_path / "out")]
    if "no row" not in said:
        # transformers casts first.
        loads.append(lambda: fresh(bases["bert"]).load_adapter(str(tmp_path / "out")))
    for load in loads:
        with pytest.raises(
            AutopeftError, match=rf"^layers\.[^\n]*_{at}\.{STATE}: [^\n]*{said}[^\n]*; load both [^\n]*$"
        ):
            load()
