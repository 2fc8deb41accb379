"""The hybrid as a PEFT method: what PEFT promises of every method holds for it, to the bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftConfig, PeftModel, get_peft_model
from tiny_models import (
    FAMILIES,
    LABELS,
    LAYERS,
    TOGETHER,
    classifier,
    everywhere,
    make,
    perturb,
    right_padded,
    tokens,
)
from transformers import AutoModelForSequenceClassification, PreTrainedModel, Trainer, TrainingArguments

from autopeft.anatomy import head_names, shape_of
from autopeft.attaching import NAME, Attachment
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.parallel import Parallel
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential
from autopeft.peft_tuner import HybridConfig

each_family = pytest.mark.parametrize("family", FAMILIES)

ALL = everywhere(*(make(name) for name in TOGETHER))
OTHER = Hybrid.from_layers(
    LAYERS, {0: [Prefix(1)], 1: [LoRA(2, sites=("k", "down"), alpha=7), Sequential(5, activation="tanh")]}
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved backbones without a head: every load draws another one."""
    found = {}
    for family in FAMILIES:
        found[family] = tmp_path_factory.mktemp(family)
        classifier(family).base_model.save_pretrained(found[family])
    return found


def fresh(folder: Path) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=LABELS).eval()


def wrap(folder: Path, hybrid: Hybrid = ALL, seed: int = 0) -> Any:
    """A fresh backbone with a hybrid, hybrid and head as if they had been trained."""
    model = get_peft_model(fresh(folder), HybridConfig(hybrid=hybrid, task_type="SEQ_CLS", seed=seed)).eval()
    disturb(model)
    return model


def disturb(model: Any, seed: int = 1) -> None:
    trained = torch.nn.ParameterList(p for p in model.parameters() if p.requires_grad)
    perturb(trained, seed)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    return model(**right_padded(plain, (7, 4, 1))).logits


# --- wrapping --------------------------------------------------------------------------------------------------------


@each_family
def test_what_is_trained_is_the_hybrid_and_the_head(family: str, folders: Any, capsys: Any) -> None:
    base = fresh(folders[family])
    shape, parameters = shape_of(base), sum(p.numel() for p in base.parameters())
    head = parameters - shape.backbone_params
    model = get_peft_model(base, HybridConfig(hybrid=ALL, task_type="SEQ_CLS"))
    expected = ALL.num_params(shape) + head
    assert model.get_nb_trainable_parameters() == (expected, parameters + expected)
    model.print_trainable_parameters()
    assert f"trainable params: {expected:,}" in capsys.readouterr().out
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(f".{NAME}." in n or ".modules_to_save.default." in n for n in names)


@each_family
def test_the_wrapped_model_is_the_attached_one(family: str, folders: Any) -> None:
    base = fresh(folders[family])
    attached = copy.deepcopy(base)
    model = get_peft_model(base, HybridConfig(hybrid=ALL, task_type="SEQ_CLS", seed=5)).eval()
    with Attachment(attached, ALL, 5):
        assert torch.equal(logits(model), logits(attached))


# --- saving and loading ----------------------------------------------------------------------------------------------


@each_family
def test_saved_and_loaded_is_the_same_to_the_bit(family: str, folders: Any, tmp_path: Path) -> None:
    model = wrap(folders[family])
    expected = logits(model)
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    config = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(config, HybridConfig)
    assert config.value() == ALL
    loaded = [
        PeftModel.from_pretrained(fresh(folders[family]), tmp_path),
        PeftModel.from_pretrained(fresh(folders[family]), tmp_path, low_cpu_mem_usage=True),
        AutoPeftModelForSequenceClassification.from_pretrained(tmp_path, num_labels=LABELS),
        AutoPeftModelForSequenceClassification.from_pretrained(tmp_path, num_labels=LABELS, low_cpu_mem_usage=True),
    ]
    for other in loaded:
        assert torch.equal(logits(other.eval()), expected)
        assert not any(p.requires_grad for p in other.parameters())
        assert not any(p.is_meta for p in other.parameters())


def test_loaded_to_be_trained_on_is_trainable_and_saves_the_same_again(folders: Any, tmp_path: Path) -> None:
    model = wrap(folders["bert"])
    model.save_pretrained(tmp_path / "one")
    loaded = PeftModel.from_pretrained(fresh(folders["bert"]), tmp_path / "one", is_trainable=True)
    assert loaded.get_nb_trainable_parameters() == model.get_nb_trainable_parameters()
    loaded.save_pretrained(tmp_path / "two")
    one, two = ((tmp_path / n / "adapter_model.safetensors").read_bytes() for n in ("one", "two"))
    assert one == two


def test_a_bare_base_model_can_be_wrapped_too(folders: Any, tmp_path: Path) -> None:
    base, ids = classifier("llama").base_model, tokens()
    model = get_peft_model(base, HybridConfig(hybrid=ALL))
    disturb(model)
    assert model.get_nb_trainable_parameters()[0] == ALL.num_params(shape_of(base))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(classifier("llama").base_model, tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).last_hidden_state, model(input_ids=ids).last_hidden_state)


def test_a_hybrid_for_another_depth_is_refused(folders: Any) -> None:
    with pytest.raises(AutopeftError, match="made for 2 layers, but the model has 3"):
        get_peft_model(fresh(folders["bert"]), HybridConfig(hybrid=Hybrid.uniform(2, LoRA(2)), task_type="SEQ_CLS"))


# --- switching -------------------------------------------------------------------------------------------------------


@each_family
def test_disabled_it_is_the_backbone_with_its_own_head(family: str, folders: Any) -> None:
    base = fresh(folders[family])
    before = logits(base)
    model = get_peft_model(base, HybridConfig(hybrid=ALL, task_type="SEQ_CLS")).eval()
    disturb(model)
    changed = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), changed)
    assert not torch.equal(changed, before)


@each_family
def test_two_adapters_take_turns(family: str, folders: Any) -> None:
    model = wrap(folders[family])
    one = logits(model)
    model.add_adapter("second", HybridConfig(hybrid=OTHER, task_type="SEQ_CLS", seed=3))
    assert torch.equal(logits(model), one)
    model.set_adapter("second")
    disturb(model, seed=2)
    two = logits(model)
    assert not torch.allclose(one, two)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    head = sum(
        p.numel()
        for n in head_names(fresh(folders[family]))
        for p in fresh(folders[family]).get_submodule(n).parameters()
    )
    assert trained == OTHER.num_params(shape_of(model.get_base_model())) + head
    for name, expected in (("default", one), ("second", two), ("default", one)):
        model.set_adapter(name)
        assert torch.equal(logits(model), expected)
    model.delete_adapter("second")
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), one)
    assert not any("second" in name for name, _ in model.named_parameters())


def test_the_active_adapter_can_be_deleted(folders: Any) -> None:
    model = wrap(folders["gpt2"])
    model.add_adapter("second", HybridConfig(hybrid=OTHER, task_type="SEQ_CLS", seed=3))
    model.set_adapter("second")
    disturb(model, seed=2)
    two = logits(model)
    model.delete_adapter("default")
    assert torch.equal(logits(model), two)


def test_two_hybrids_cannot_be_active_at_once() -> None:
    model = get_peft_model(classifier("bert").base_model, HybridConfig(hybrid=ALL))
    model.add_adapter("second", HybridConfig(hybrid=OTHER))
    with pytest.raises(ValueError, match="one hybrid can be active at a time"):
        model.base_model.set_adapter(["default", "second"])


# --- taking off and copying ------------------------------------------------------------------------------------------


@each_family
def test_unloaded_it_is_the_plain_model(family: str, folders: Any) -> None:
    base = fresh(folders[family])
    before, names, attention = logits(base), set(base.state_dict()), base.config._attn_implementation
    model = get_peft_model(base, HybridConfig(hybrid=ALL, task_type="SEQ_CLS")).eval()
    perturb(getattr(model.get_base_model(), NAME))
    assert not torch.equal(logits(model), before)
    plain = model.unload()
    assert plain is base
    assert torch.equal(logits(plain), before)
    assert set(plain.state_dict()) == names
    assert plain.config._attn_implementation == attention
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.modules())


def test_unloaded_it_keeps_the_trained_head(folders: Any) -> None:
    model = wrap(folders["distilbert"])
    trained = {
        n: model.base_model.model.get_submodule(n).modules_to_save["default"] for n in ("pre_classifier", "classifier")
    }
    plain = model.unload()
    for name, head in trained.items():
        assert all(torch.equal(a, b) for a, b in zip(head.parameters(), getattr(plain, name).parameters(), strict=True))


def test_what_does_not_merge_is_named(folders: Any) -> None:
    model = wrap(folders["bert"])
    before = logits(model)
    with pytest.raises(AutopeftError, match=r"'prefix'[^\n]* do not merge into the backbone; "):
        model.merge_and_unload()
    assert torch.equal(logits(model), before)


@each_family
def test_a_deep_copy_is_independent(family: str, folders: Any) -> None:
    model = wrap(folders[family])
    before = logits(model)
    other = copy.deepcopy(model)
    assert torch.equal(logits(other), before)
    disturb(other, seed=3)
    changed = logits(other)
    assert not torch.equal(changed, before)
    assert torch.equal(logits(model), before)
    with other.disable_adapter():
        assert torch.equal(logits(model), before)
    disturb(model, seed=4)
    assert torch.equal(logits(other), changed)
    plain = other.unload()
    assert not any(m._forward_hooks for m in plain.modules())
    assert any(m._forward_hooks for m in model.modules())


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "qwen3"])
def test_trainer_trains_the_hybrid_and_the_head_only(family: str, folders: Any, tmp_path: Path) -> None:
    model = get_peft_model(
        fresh(folders[family]), HybridConfig(hybrid=everywhere(LoRA(2), Parallel(8), Prefix(2)), task_type="SEQ_CLS")
    )
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    rows = [{"input_ids": ids.tolist(), "labels": i % LABELS} for i, ids in enumerate(tokens(8))]
    settings = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, learning_rate=0.1, report_to="none",
        use_cpu=True, save_strategy="no", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    Trainer(model=model, args=settings, train_dataset=rows).train()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    assert sum(p.requires_grad for p in model.parameters()) > 0
