"""Checkpoints that carry a head already: it is drawn anew, whatever its size, and what is exported loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from spoilt_models import edit
from tiny_models import CONFIGS, FAMILIES, LABELS, classifier, randomise
from tiny_project import experiment, not_measured
from tiny_task import classes, tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

import autopeft
from autopeft.anatomy import head_names
from autopeft.candidate import Candidate
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.hybrid import Hybrid
from autopeft.models import find_model
from autopeft.readouts import Readout
from autopeft.readouts.regression import Regression
from autopeft.snippet import base_lines


def with_labels(labels: int, kind: str | None = None) -> Callable[[str], PreTrainedModel]:
    def build(family: str) -> PreTrainedModel:
        config = CONFIGS[family](num_labels=labels, problem_type=kind)
        return randomise(AutoModelForSequenceClassification.from_config(config), 0)

    return build


def of_tokens(family: str) -> PreTrainedModel:
    return randomise(AutoModelForTokenClassification.from_config(CONFIGS[family](num_labels=7)), 0)


HEADS: dict[str, Callable[[str], PreTrainedModel]] = {
    "same": with_labels(LABELS, "single_label_classification"),
    "larger": with_labels(5, "single_label_classification"),
    "regression": with_labels(1, "regression"),
    "multi-label": with_labels(6, "multi_label_classification"),
}


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def drawn(folder: Path, readout: Readout) -> dict[str, torch.Tensor]:
    """A candidate's head before it is trained."""
    backbone = Backbone(find_model(str(folder)), readout, REPORTED, torch.device("cpu"), 0)
    with Pack(
        backbone,
        [Candidate(Hybrid.uniform(backbone.shape.layers))],
        TrainingSettings(head="drawn", method_rates="shared", seed=1),
    ) as pack:
        return {name: tensor.clone() for name, tensor in pack.weights(0).items()}


@pytest.mark.parametrize(
    ("family", "head"), [*(("bert", head) for head in HEADS), *((family, "larger") for family in FAMILIES[1:])]
)
def test_a_checkpoints_head_is_drawn_anew(family: str, head: str, tmp_path: Path) -> None:
    built = HEADS[head](family)
    folder = saved(built, tmp_path / "headed")
    bare = saved(built.base_model, tmp_path / "bare")
    for readout in (classes(LABELS), Regression()):
        model = find_model(str(folder)).model(readout, "auto")
        own = built.base_model.state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in model.base_model.state_dict().items())
        assert head_names(model)
        one, other = drawn(folder, readout), drawn(bare, readout)
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
        assert find_model(str(folder)).has_other_head(readout) == (readout.outputs != built.config.num_labels)
        assert not find_model(str(bare)).has_other_head(readout)


@pytest.mark.parametrize("family", ["distilbert", "gpt2", "llama"])
def test_a_head_of_another_kind_is_dropped(family: str, tmp_path: Path) -> None:
    source = find_model(str(saved(of_tokens(family), tmp_path)))
    with torch.no_grad():
        assert source.model(classes(LABELS), "auto")(input_ids=torch.tensor([[9, 8]])).logits.shape == (1, LABELS)


@pytest.mark.parametrize(("labels", "regression"), [(5, False), (LABELS, False), (2, True), (1, True)])
def test_a_search_on_a_checkpoint_with_a_head_exports_what_evaluates_and_loads_like_the_card_says(
    labels: int, regression: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card's snippet and PEFT's own loader give the logits of the model that was measured."""
    fields = experiment(tmp_path, trials=1)
    saved(with_labels(labels, None if labels == 1 else "single_label_classification")("bert"), tmp_path / "model")
    if regression:
        as_numbers(tmp_path)
    monkeypatch.chdir(tmp_path)
    with not_measured():
        result = autopeft.search(out=tmp_path / "run", quiet=True, **fields)
    out = result.export(to=tmp_path / "out")
    score = {name: value for name, value in result.front.points[0].metrics.items() if name.startswith("test_")}
    assert autopeft.evaluate(out) == pytest.approx(score, rel=1e-5)
    card = (out / "README.md").read_text()
    wanted = 1 if regression else LABELS
    assert ("ignore_mismatched_sizes=True" in card) == (labels != wanted)
    assert ("AutoConfig" in card) == (regression and labels > 1)
    names: dict[str, PreTrainedModel] = {}
    exec(card.partition("```python\n")[2].partition("```")[0].replace("path/to/this/folder", str(out)), names)
    loaded = [names["model"]]
    if not (regression and labels > 1):
        # There transformers needs a configuration that it is given, which peft's loader takes for its own.
        options = {"num_labels": wanted, "ignore_mismatched_sizes": True}
        loaded.append(AutoPeftModelForSequenceClassification.from_pretrained(out, **options))
    inputs = tokenizer()(["w1 w5 w7", "w0 w80"], return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = [model.eval()(**inputs).logits for model in loaded]
    assert logits[0].shape == (2, wanted)
    assert torch.equal(logits[0], logits[-1])


def as_numbers(folder: Path) -> None:
    """The classes as real values."""
    for split in ("train", "validation", "test"):
        path = folder / f"{split}.jsonl"
        text = path.read_text()
        for number in range(3):
            text = text.replace(f'"label": "w{number}"', f'"label": {number + 0.5}')
        path.write_text(text)


def test_the_snippet_asks_for_nothing_that_a_bare_checkpoint_does_not_need(tmp_path: Path) -> None:
    folder = saved(classifier("bert").base_model, tmp_path)
    lines = base_lines(find_model(str(folder)), '"here"', classes(LABELS))
    loading = 'base = AutoModelForSequenceClassification.from_pretrained("here", num_labels=3, dtype="float32")\n'
    assert lines == loading
    edit(folder / "config.json", pad_token_id=5)
    assert base_lines(find_model(str(folder)), '"here"', classes(LABELS)) == f"{loading}base.config.pad_token_id = 0\n"
