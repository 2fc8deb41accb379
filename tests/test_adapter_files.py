"""Adapters' files and names: the same bits under any name, through PEFT and through transformers, or one line."""

from __future__ import annotations

import json
import os
import shutil
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftMixedModel,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from tiny_models import (
    FAMILIES,
    HIDDEN,
    LABELS,
    TOGETHER,
    classifier,
    everywhere,
    make,
    perturb,
    right_padded,
    tokens,
)
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from autopeft.adapter_keys import as_saved_now, without_adapter
from autopeft.attaching import Attachment
from autopeft.engine.kept import load_weights, save_weights
from autopeft.errors import AutopeftError
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.peft_tuner import PEFT_TYPE, HybridConfig

each_family = pytest.mark.parametrize("family", FAMILIES)
#: One with a fused map, one with two heads, one with a pooler's layer in its head, and a gated one.
some_families = pytest.mark.parametrize("family", ["gpt2", "distilbert", "electra", "llama"])

ALL = everywhere(*(make(name) for name in TOGETHER))
OTHER = everywhere(LoRA(2, sites=("k", "down")), Prefix(1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By family: a base model in `base`; two adapters that were trained together, in `both` and `both/task_b`."""
    found = {}
    for family in FAMILIES:
        folder = found[family] = tmp_path_factory.mktemp(family)
        classifier(family).save_pretrained(folder / "base")
        model = wrap(folder)
        model.add_adapter("task_b", HybridConfig(hybrid=OTHER, task_type="SEQ_CLS", seed=3))
        one = logits(model)
        model.set_adapter("task_b")
        disturb(model, seed=2)
        torch.save((one, logits(model)), folder / "logits")
        model.save_pretrained(folder / "both")
    return found


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    """PEFT warns where it leaves weights as they were drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def fresh(folder: Path) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(folder / "base").eval()


def wrap(folder: Path) -> Any:
    model = get_peft_model(fresh(folder), HybridConfig(hybrid=ALL, task_type="SEQ_CLS")).eval()
    disturb(model)
    return model


def disturb(model: Any, seed: int = 1) -> None:
    perturb(nn.ParameterList(p for p in model.parameters() if p.requires_grad), seed)


def expected(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.load(folder / "logits")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    return model(**right_padded(plain, (7, 4, 1))).logits


def older(source: Path, to: Path, name: str) -> Path:
    """An adapter's folder as earlier versions wrote it: the adapter's name in the middle of each key."""
    shutil.copytree(source, to)
    state = load_file(to / "adapter_model.safetensors")
    keys = {key: key.replace("autopeft_banks.", f"autopeft_banks.{name}.") for key in state}
    save_file({keys[key]: tensor for key, tensor in state.items()}, to / "adapter_model.safetensors")
    return to


# --- names -----------------------------------------------------------------------------------------------------------


@some_families
def test_an_adapter_is_the_same_under_any_name(family: str, folders: Any) -> None:
    folder = folders[family]
    one, two = expected(folder)
    for name in ("default", "b", "layers", "0", "down", "base_model", "ä b"):
        assert torch.equal(logits(PeftModel.from_pretrained(fresh(folder), folder / "both", adapter_name=name)), one)
        loaded = PeftModel.from_pretrained(fresh(folder), folder / "both" / "task_b", adapter_name=name)
        assert torch.equal(logits(loaded), two)


def test_files_hold_no_adapters_name(folders: Any) -> None:
    both = folders["bert"] / "both"
    for place in (both, both / "task_b"):
        keys = load_file(place / "adapter_model.safetensors").keys()
        assert keys
        assert not any(part in ("default", "task_b") for key in keys for part in key.split("."))


@some_families
def test_adapters_that_share_a_model_keep_to_their_weights(family: str, folders: Any, tmp_path: Path) -> None:
    folder = folders[family]
    one, two = expected(folder)
    model = PeftModel.from_pretrained(fresh(folder), folder / "both", adapter_name="layers")
    model.load_adapter(folder / "both" / "task_b", "down", low_cpu_mem_usage=True, torch_device="cpu")
    assert model.active_adapters == ["layers"]
    for name, wanted in (("layers", one), ("down", two), ("layers", one)):
        model.set_adapter(name)
        assert torch.equal(logits(model), wanted)
    # Each name is a part of the other's keys: PEFT leaves such keys out of a file.
    model.save_pretrained(tmp_path / "all")
    model.save_pretrained(tmp_path / "some", selected_adapters=["down"])
    assert not (tmp_path / "some" / "layers").exists()
    for root, name, wanted in (("all", "layers", one), ("all", "down", two), ("some", "down", two)):
        again = PeftModel.from_pretrained(fresh(folder), tmp_path / root, subfolder=name, adapter_name="x")
        assert torch.equal(logits(again), wanted)
        state = get_peft_model_state_dict(model, adapter_name=name)
        assert state.keys() == load_file(tmp_path / root / name / "adapter_model.safetensors").keys()


def test_deleted_and_loaded_again_it_is_the_same(folders: Any) -> None:
    folder = folders["bert"]
    one, two = expected(folder)
    model = PeftModel.from_pretrained(fresh(folder), folder / "both")
    model.load_adapter(folder / "both" / "task_b", "b")
    with pytest.warns(UserWarning, match="Setting active adapter to b"):
        model.delete_adapter("default")
    assert torch.equal(logits(model), two)
    model.load_adapter(folder / "both", "default")
    assert torch.equal(logits(model), two)
    model.set_adapter("default")
    assert torch.equal(logits(model), one)
    model.delete_adapter("b")
    model.delete_adapter("default")
    model.load_adapter(folder / "both", "default")
    assert torch.equal(logits(model), one)


@pytest.mark.parametrize("name", ["", "task.x", "classifier", "score", "weight", "modules_to_save", "keys"])
def test_names_that_cannot_be_are_refused_in_one_line(name: str, folders: Any) -> None:
    folder = folders["bert"]
    model = PeftModel.from_pretrained(fresh(folder), folder / "both")
    before = logits(model)
    if not name:
        warnings.simplefilter("ignore", UserWarning)
    for load in (
        lambda: PeftModel.from_pretrained(fresh(folder), folder / "both", adapter_name=name),
        lambda: model.load_adapter(folder / "both", name),
        lambda: model.add_adapter(name, HybridConfig(hybrid=OTHER, task_type="SEQ_CLS")),
    ):
        with pytest.raises(AutopeftError, match=rf"^adapter name '{name}' .*; use another one, such as 'task_a'$"):
            load()
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), before)


def test_an_unknown_adapter_cannot_be_made_active(folders: Any) -> None:
    model = PeftModel.from_pretrained(fresh(folders["bert"]), folders["bert"] / "both")
    with pytest.raises(ValueError, match="not found"):
        model.set_adapter("nobody")
    with pytest.raises(ValueError, match="no adapter 'nobody'; there are: default"):
        model.base_model.model.autopeft.set_adapter("nobody")


# --- older files, and files that do not fit --------------------------------------------------------------------------


@some_families
def test_folders_of_earlier_versions_load_to_the_same_bits(family: str, folders: Any, tmp_path: Path) -> None:
    folder = folders[family]
    one = expected(folder)[0]
    for saved in ("default", "task_b", "layers", "0"):
        place = older(folder / "both", tmp_path / saved, saved)
        for name, options in (("default", {}), ("b", {"low_cpu_mem_usage": True})):
            loaded = PeftModel.from_pretrained(fresh(folder), place, adapter_name=name, **options)
            assert torch.equal(logits(loaded), one)


def test_keys_without_and_with_a_name() -> None:
    now = "base_model.model.autopeft.autopeft_banks.layers.0.down.lora.A"
    for name in ("default", "layers", "lora", "0"):
        before = now.replace("banks.", f"banks.{name}.")
        assert as_saved_now(before) == now
        assert without_adapter(before, name) == now
    assert as_saved_now(now) == now
    assert as_saved_now("base_model.model.classifier.weight") == "base_model.model.classifier.weight"


def spoil(how: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    key = next(k for k in state if k.endswith("layers.1.down.lora.A"))
    if how == "missing":
        return {k: v for k, v in state.items() if k != key}
    if how == "too many":
        return state | {key.replace("layers.1", "layers.7"): state[key].clone()}
    if how == "integers":
        return state | {key: state[key].long()}
    if how == "size":
        return state | {key: torch.zeros(1, 9, 9)}
    if how == "head":
        return state | {"base_model.model.classifier.weight": torch.zeros(7, HIDDEN)}
    return {k.replace("autopeft_banks", "other"): v for k, v in state.items()}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "no layers.1.down.lora.A"),
        ("too many", "layers.7.down.lora.A too many"),
        ("integers", "layers.1.down.lora.A has whole numbers"),
        ("size", r"layers.1.down.lora.A is \(1, 9, 9\) instead of"),
        ("head", r"classifier.* is \(7, 32\) instead of \(3, 32\).*load the base model with num_labels=7"),
        ("others", "no layers.0.*; no layers.0.*; no layers.0.* and .* more"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(how: str, said: str, folders: Any, tmp_path: Path) -> None:
    folder, place = folders["bert"], tmp_path / "spoilt"
    shutil.copytree(folder / "both", place)
    save_file(spoil(how, load_file(place / "adapter_model.safetensors")), place / "adapter_model.safetensors")
    for options in ({}, {"low_cpu_mem_usage": True}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(AutopeftError, match=rf"^adapter 'b': the weights do not fit .*{said}[^\n]*$"):
            PeftModel.from_pretrained(fresh(folder), place, adapter_name="b", **options)


def test_a_state_can_be_taken_and_set_without_a_file(folders: Any) -> None:
    folder = folders["bert"]
    model = PeftModel.from_pretrained(fresh(folder), folder / "both")
    state = get_peft_model_state_dict(model)
    other = get_peft_model(fresh(folder), HybridConfig(hybrid=ALL, task_type="SEQ_CLS"), adapter_name="b").eval()
    set_peft_model_state_dict(other, state, adapter_name="b")
    assert torch.equal(logits(other), expected(folder)[0])
    bare = inject_adapter_in_model(HybridConfig(hybrid=ALL), classifier("bert").base_model, "c")
    own = {k: v for k, v in state.items() if "autopeft_banks" in k}
    set_peft_model_state_dict(bare, own, adapter_name="c")
    with torch.no_grad():
        found, wanted = (m(input_ids=tokens()).last_hidden_state for m in (bare, model.get_base_model().base_model))
    assert torch.equal(found, wanted)


# --- through transformers --------------------------------------------------------------------------------------------


def named_base(place: Path, base: Path) -> Path:
    config = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    return place


def assert_same(model: Any, place: Path, name: str, wanted: torch.Tensor) -> None:
    """An adapter has a folder's bits; products of weights that lie elsewhere in memory may differ by rounding."""
    saved = load_file(place / "adapter_model.safetensors")
    own = {k: v for k, v in model.state_dict().items() if f".{name}." in k and "original_module" not in k}
    assert len(own) == len(saved)
    for key, tensor in own.items():
        key = without_adapter(key, name).replace(f"modules_to_save.{name}.", "")
        assert torch.equal(tensor, saved[f"base_model.model.{key}"]), key
    torch.testing.assert_close(logits(model), wanted, rtol=1e-5, atol=1e-5)


@each_family
def test_transformers_loads_an_adapters_folder(family: str, folders: Any, tmp_path: Path) -> None:
    folder = folders[family]
    shutil.copytree(folder / "both", tmp_path / "one")
    place = named_base(tmp_path / "one", folder / "base")
    one, two = expected(folder)
    model = AutoModelForSequenceClassification.from_pretrained(place)
    assert_same(model, place, "default", one)
    assert not any(p.requires_grad for n, p in model.named_parameters() if "autopeft" in n)
    with pytest.warns(UserWarning, match="Already found a `peft_config`"):
        model.load_adapter(str(folder / "both" / "task_b"), adapter_name="b")
    model.set_adapter("b")
    assert_same(model, folder / "both" / "task_b", "b", two)
    model.disable_adapters()
    torch.testing.assert_close(logits(model), logits(fresh(folder)), rtol=1e-5, atol=1e-5)
    model.enable_adapters()
    with pytest.warns(UserWarning, match="Setting active adapter to default"):
        model.delete_adapter("b")
    assert_same(model, place, "default", one)
    assert list(model.peft_config) == ["default"]
    with torch.no_grad():
        body = AutoModel.from_pretrained(place)(input_ids=tokens()).last_hidden_state
        whole = PeftModel.from_pretrained(fresh(folder), place).get_base_model().base_model
        torch.testing.assert_close(body, whole(input_ids=tokens()).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_transformers_leaves_no_weights_as_they_were_drawn(folders: Any, tmp_path: Path) -> None:
    folder = folders["bert"]
    place = named_base(older(folder / "both", tmp_path / "old", "default"), folder / "base")
    model = AutoModelForSequenceClassification.from_pretrained(place)
    for _ in range(2):
        with pytest.raises(AutopeftError, match=r"^adapter 'default': the file lacks[^\n]*PeftModel.from_pretrained"):
            logits(model)
    # A new adapter's weights are meant to be as they were drawn.
    added = fresh(folder)
    added.add_adapter(HybridConfig(hybrid=ALL, task_type="SEQ_CLS"))
    assert logits(added).isfinite().all()


def test_the_type_is_peft_s_own_kind(tmp_path: Path) -> None:
    config = HybridConfig(hybrid=OTHER)
    assert config.peft_type == "AUTOPEFT"
    assert config.peft_type.value == "AUTOPEFT"
    assert hash(PEFT_TYPE) == hash("AUTOPEFT")
    config.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "AUTOPEFT"
    assert PeftConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    model = get_peft_model(classifier("bert"), HybridConfig(hybrid=OTHER, task_type="SEQ_CLS"))
    assert model.get_model_status().peft_types == {"default": "AUTOPEFT"}
    assert {layer.name for layer in model.get_layer_status()} == {"model.autopeft", "model.classifier"}


# --- what hybrids do not do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        ("merge_adapter", r"merge_and_unload\(\) gives"),
        ("unmerge_adapter", r"merge_and_unload\(\) gives"),
        ("merge_and_unload", "keep the hybrid on the model"),
        ("add_weighted_adapter", "export[^\n]*stock PEFT LoRA"),
    ],
)
def test_merging_and_adding_say_what_to_do(call: str, remedy: str, folders: Any) -> None:
    model = wrap(folders["bert"])
    before = logits(model)
    with pytest.raises(AutopeftError, match=rf"^[^\n]*{remedy}[^\n]*$"):
        getattr(model, call)()
    assert torch.equal(logits(model), before)


def test_mixed_models_name_the_type(folders: Any) -> None:
    with pytest.raises(ValueError, match=r"AUTOPEFT[^\n]* (not supported|not compatible)"):
        PeftMixedModel.from_pretrained(fresh(folders["bert"]), folders["bert"] / "both")
    model = wrap(folders["bert"])
    with pytest.raises(ValueError, match="Cannot combine adapters with different peft types"):
        model.add_adapter("stock", LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))


def test_a_model_that_carries_something_else_is_refused_in_one_line() -> None:
    model, config = classifier("bert"), HybridConfig(hybrid=OTHER, task_type="SEQ_CLS")
    with Attachment(model, ALL), pytest.raises(AutopeftError, match=r"^the model has a hybrid from [^\n]*detach it"):
        get_peft_model(model, config)
    stock = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(AutopeftError, match=r"^the model has adapters of another kind; [^\n]*plain model"):
            get_peft_model(stock, config)


# --- files' modes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_weights_have_the_mode_of_their_siblings(umask: int, folders: Any, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        wrap(folders["bert"]).save_pretrained(tmp_path / "adapter")
        save_weights(tmp_path / "weights", "key", {"a": torch.ones(2)})
    finally:
        os.umask(before)
    wanted = 0o666 & ~umask
    for name in ("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "weights/key.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == wanted, name
    assert load_weights(tmp_path / "weights", "key")["a"].tolist() == [1, 1]
    assert [p.name for p in (tmp_path / "weights").iterdir()] == ["key.safetensors"]


# --- state and training ----------------------------------------------------------------------------------------------


@each_family
def test_a_models_state_is_all_of_it(family: str, folders: Any) -> None:
    folder = folders[family]
    model, other = wrap(folder), wrap(folder)
    disturb(other, seed=5)
    assert not torch.equal(logits(model), logits(other))
    other.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert torch.equal(logits(model), logits(other))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_wrapped_model_computes_in_other_types(family: str, dtype: torch.dtype, folders: Any) -> None:
    model = wrap(folders[family])
    before = logits(model)
    changed = logits(model.to(dtype))
    assert changed.dtype == dtype
    torch.testing.assert_close(changed.float(), before, rtol=0.05, atol=0.5 if dtype == torch.bfloat16 else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_compiled_model_is_one_graph_and_computes_the_same(family: str, folders: Any) -> None:
    model = wrap(folders[family])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        inputs = right_padded(model.get_base_model(), (7, 4, 1))
        assert torch.equal(compiled(**inputs).logits, model(**inputs).logits)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_trainer_resumes_from_its_checkpoint(folders: Any, tmp_path: Path) -> None:
    rows = [{"input_ids": ids.tolist(), "labels": i % LABELS} for i, ids in enumerate(tokens(16))]

    def train(name: str, steps: int, resume: str | None = None) -> dict[str, torch.Tensor]:
        model = get_peft_model(fresh(folders["bert"]), HybridConfig(hybrid=ALL, task_type="SEQ_CLS"))
        settings = TrainingArguments(
            str(tmp_path / name), max_steps=steps, per_device_train_batch_size=4, learning_rate=0.01, use_cpu=True,
            report_to="none", save_steps=2, disable_tqdm=True, logging_strategy="no", lr_scheduler_type="constant",
        )  # fmt: skip
        Trainer(model=model, args=settings, train_dataset=rows).train(resume_from_checkpoint=resume)
        return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    whole = train("whole", 4)
    resumed = train("resumed", 4, str(tmp_path / "whole" / "checkpoint-2"))
    halted = train("halted", 2)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], halted[name]) for name in whole)


@torch.no_grad()
def test_bare_attached_and_wrapped_agree_after_a_round_trip(folders: Any) -> None:
    folder = folders["bert"]
    model = PeftModel.from_pretrained(fresh(folder), folder / "both", adapter_name="x", is_trainable=True).eval()
    plain = fresh(folder)
    plain.classifier = model.base_model.model.classifier.modules_to_save["x"]
    with Attachment(plain, ALL) as attached:
        attached.banks.load(model.base_model.model.autopeft.autopeft_banks["x"].weights())
        assert torch.equal(logits(plain), logits(model))
    assert all(p.requires_grad for p in model.base_model.model.autopeft.parameters())
