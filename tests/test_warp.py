"""WARP: its count, its arithmetic by hand, what it trains, and the checkpoints that it cannot take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import CONFIGS, HIDDEN, randomise
from tiny_task import save_model, tags, task, tokenizer
from transformers import AutoModelForMaskedLM

from autopeft.baselines import BASELINES
from autopeft.baselines.warp import WARP, WarpedModel
from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import measure
from autopeft.errors import AutopeftError
from autopeft.models import ModelSource, find_model

SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=3, batch_size=16, precision="fp32", learning_rate=5e-2, seed=1
)


def masked_source(folder: Path, family: str = "bert") -> ModelSource:
    """A tiny model with the head of masked language modelling, whose tokenizer has a [MASK]."""
    randomise(AutoModelForMaskedLM.from_config(CONFIGS[family]()), 0).save_pretrained(folder)
    words = tokenizer()
    words.add_special_tokens({"mask_token": "[MASK]"})
    words.save_pretrained(folder)
    return find_model(str(folder))


def data(types: bool = True) -> TokenizedTask:
    made = TokenizedTask.of(task(sizes=(48, 12, 12)), tokenizer(), 16)
    bare = {name: replace(getattr(made, name), types=None) for name in ("train", "validation", "test")}
    return made if types else replace(made, **bare)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_it_learns_and_trains_no_head(family: str, tmp_path: Path) -> None:
    source, tokens = masked_source(tmp_path, family), data(family == "bert")
    before = {n: p.clone() for n, p in WARP()._load(source).named_parameters()}
    fitted = BASELINES.get("warp")().fit(source, tokens, SETTINGS)
    model = fitted.model
    assert isinstance(model, WarpedModel)
    assert fitted.trainable_params == fitted.kept_params == 20 * HIDDEN + 3 * (HIDDEN + 1)
    assert fitted.stored_bytes == 4 * fitted.trainable_params
    assert {n for n, _ in model.named_parameters() if not n.startswith("model.")} == {"vectors", "classes", "bias"}
    assert not any("classifier" in name or "score" in name for name, _ in model.named_parameters())
    assert all(torch.equal(p, before[n]) for n, p in model.model.named_parameters())
    assert fitted.curve[-1]["train_loss"] < 0.98 * fitted.curve[0]["train_loss"]
    assert measure(model, tokens, tokens.validation)["loss"] == pytest.approx(fitted.curve[-1]["loss"], rel=1e-5)


def test_the_score_is_that_of_the_mask_in_a_text_by_hand(tmp_path: Path) -> None:
    source, tokens = masked_source(tmp_path), data()
    model = WARP(length=5).fit(source, tokens, SETTINGS.model_copy(update={"epochs": 1})).model
    assert isinstance(model, WarpedModel)
    stock = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    texts, (a, b, m, c, d) = [[2, 10, 11, 3], [2, 20, 21, 22, 23, 3]], model.vectors
    ids = torch.tensor([[*text, *[0] * (6 - len(text))] for text in texts])
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=(ids > 0).long()).logits
        for text, logits in zip(texts, found, strict=True):
            cls, *rest = stock.get_input_embeddings()(torch.tensor(text))
            hidden = stock.bert(inputs_embeds=torch.stack([cls, a, b, *rest, m, c, d])[None]).last_hidden_state
            at_mask = stock.cls.predictions.transform(hidden[0, len(text) + 2])
            torch.testing.assert_close(logits, model.classes @ at_mask + model.bias, rtol=1e-4, atol=1e-5)


def test_what_it_cannot_be_trained_on_is_one_line(tmp_path: Path) -> None:
    tokens, warp = data(), WARP()
    plain, causal, good = (tmp_path / name for name in ("plain", "causal", "good"))
    save_model(plain)
    save_model(causal, "llama")
    source = masked_source(good)
    with pytest.raises(AutopeftError, match=r"has no \[MASK\]; take another model$"):
        warp.fit(find_model(str(plain)), tokens, SETTINGS)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (plain / name).write_bytes((good / name).read_bytes())
    with pytest.raises(AutopeftError, match=r"has no head of masked language modelling .*; take one that has"):
        warp.fit(find_model(str(plain)), tokens, SETTINGS)
    with pytest.raises(AutopeftError, match=r"reads from left to right, and knows no \[MASK\]$"):
        warp.fit(find_model(str(causal)), tokens, SETTINGS)
    with pytest.raises(AutopeftError, match=r"need one a token; take lst$"):
        warp.fit(source, TokenizedTask.of(tags((24, 8, 8)), tokenizer(), 16), SETTINGS)
    with pytest.raises(AutopeftError, match=r"the 64 positions of model .* to at most 4$"):
        WARP(length=60).fit(source, tokens, SETTINGS)
