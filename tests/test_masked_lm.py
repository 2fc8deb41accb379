"""Masked language models: what is masked, the loss of the model's own head, packs, a search."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_families import MORE
from tiny_models import CONFIGS, LAYERS, perturb, randomise
from tiny_packs import SETTINGS, Bench, mixed
from tiny_project import experiment, not_measured
from tiny_task import WORDS, save_language_model
from torch.nn import functional
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

import autopeft
from autopeft.anatomy import shape_of
from autopeft.attaching import Attachment
from autopeft.candidate import Candidate
from autopeft.costs import COSTS
from autopeft.costs._flops import forward_flops
from autopeft.engine.data import TokenizedTask, collate
from autopeft.engine.masking import Masking
from autopeft.engine.pack import Pack
from autopeft.engine.texts import Reader
from autopeft.engine.train import measure
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.hybrid import Hybrid
from autopeft.models import find_model
from autopeft.readouts import IGNORED
from autopeft.readouts._frozen_head import given_to_head, head_of
from autopeft.readouts.masked_lm import MaskedLM
from autopeft.session import Session
from autopeft.tasks import Split, TaskData, task_from

MASK = 98


def tokenizer() -> PreTrainedTokenizerFast:
    """The tiny one, whose last word is the mask."""
    from tiny_task import tokenizer as plain

    made = plain()
    made.add_special_tokens({"mask_token": "[MASK]"})
    return made


def model_of(family: str) -> Any:
    config = (CONFIGS | MORE)[family]()
    return randomise(AutoModelForMaskedLM.from_config(config), 0).requires_grad_(False)


def save(folder: Path, family: str) -> Path:
    model_of(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def texts(sizes: tuple[int, int, int] = (48, 16, 8), seed: int = 0) -> TaskData:
    """Words that follow each other by number."""
    splits = []
    for number, size in enumerate(sizes):
        rng = random.Random(number)
        rows = []
        for _ in range(size):
            first = rng.randrange(60)
            rows.append(row(" ".join(WORDS[first : first + rng.randrange(2, 12)])))
        splits.append(Split(tuple(rows), None, (0,) * size))
    return TaskData("texts", *splits, MaskedLM(seed=seed), ("loss", "perplexity", "token_accuracy"), "made up")


def row(text: str) -> str:
    return json.dumps({"parts": [{"text": text, "scored": True}]})


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "distilbert", "modernbert")]


@pytest.fixture(scope="module", params=["bert", *OTHERS])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    source = find_model(str(save(tmp_path_factory.mktemp("model"), request.param)))
    data = TokenizedTask.of(texts(), tokenizer(), 32)
    if request.param != "bert":
        data = replace(
            data, **{n: replace(getattr(data, n), types=None) for n in ("train", "validation", "test")}, pad_id=0
        )
    settings = SETTINGS.model_copy(update={"epochs": 1})
    return Bench.of(source, data, "autopeft_sdpa", settings)


def test_masks_are_a_function_of_seed_and_text() -> None:
    one, again, other = (TokenizedTask.of(texts(seed=seed), tokenizer(), 32) for seed in (0, 0, 1))
    assert np.array_equal(one.train.ids, again.train.ids)
    assert not np.array_equal(one.train.ids, other.train.ids)
    assert texts(seed=0).fingerprint != texts(seed=1).fingerprint
    # Whoever stands beside it.
    fewer = TokenizedTask.of(replace(texts(), train=texts().train.take([7, 3])), tokenizer(), 32)
    assert np.array_equal(fewer.train.ids, one.train.take(np.array([7, 3])).ids)


def test_masks_are_bert_s() -> None:
    masking = Masking.of(Reader(tokenizer(), 512, None), 3)
    rng, fates, shares = random.Random(0), dict.fromkeys(("mask", "same", "other"), 0), []
    for _ in range(300):
        ids = [2, *(rng.randrange(4, 94) for _ in range(40)), 3]
        found, labels = masking.masked(ids)
        chosen = [i for i, label in enumerate(labels) if label != IGNORED]
        assert all(labels[i] == ids[i] for i in chosen)
        assert all(found[i] == ids[i] for i in range(42) if i not in chosen)
        assert not {0, 41} & set(chosen)
        shares.append(len(chosen))
        for i in chosen:
            kind = "mask" if found[i] == masking.mask else "same" if found[i] == ids[i] else "other"
            fates[kind] += 1
    assert set(shares) == {6}
    assert fates["mask"] / 1_800 == pytest.approx(0.8, abs=0.03)
    assert fates["other"] / 1_800 == pytest.approx(0.1, abs=0.03)


def test_losses_are_those_of_the_model_with_labels(bench: Bench) -> None:
    assert head_of(bench.backbone.model, given_to_head) is not None
    hybrid = mixed(LAYERS, 1)[1].hybrid
    batch = collate(bench.data.train, torch.arange(7).numpy(), bench.data.pad_id)
    with Pack(bench.backbone, [Candidate(hybrid)], bench.settings) as pack:
        perturb(pack.attachment.banks)
        weights = pack.weights(0)
        found = bench.data.readout.loss(pack.forward(batch, {}), batch.labels)
    with Attachment(bench.backbone.model, hybrid) as attached:
        attached.banks.load({n.removeprefix("hybrid."): w for n, w in weights.items()})
        theirs = bench.backbone.model(**batch.inputs, labels=batch.labels).loss
    assert found.tolist() == pytest.approx([theirs.item()], rel=1e-5)


def test_packed_and_cached_is_solo(bench: Bench) -> None:
    members = mixed(LAYERS, 3)
    packed = bench.train(members, bench.frozen(), {3: [1]})
    # From the bottom, with two sizes in a layer and one that others lack; from the top.
    for i in (0, 2, 3):
        alone = bench.train([members[i]])[0]
        assert packed[i].losses == pytest.approx(alone.losses, rel=1e-5)
        torch.testing.assert_close(packed[i].logits, alone.logits, rtol=2e-4, atol=1e-4)
        assert alone.losses[0] != alone.losses[-1]


def test_the_slow_way_gives_the_same_and_metrics_are_of_masked_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = model_of("bert"), TokenizedTask.of(texts(), tokenizer(), 32)
    fast = measure(model, data, data.test)
    assert MaskedLM().most_tokens(model) is None
    monkeypatch.setattr("autopeft.readouts._frozen_head.head_of", lambda model, given: None)
    assert MaskedLM().most_tokens(model) == 2**25 // 99
    assert measure(model, data, data.test) == pytest.approx(fast, rel=1e-5)
    batch = collate(data.test, np.arange(len(data.test)), data.pad_id)
    own = batch.labels != IGNORED
    logits = model(**batch.inputs).logits
    loss = float(functional.cross_entropy(logits[own], batch.labels[own]))
    assert fast["loss"] == pytest.approx(loss, rel=1e-5)
    assert fast["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert fast["token_accuracy"] == pytest.approx(float((logits[own].argmax(1) == batch.labels[own]).float().mean()))


def test_flops_count_the_head_of_masked_tokens() -> None:
    shape, hybrid = shape_of(model_of("bert")), Hybrid.uniform(LAYERS)
    layers, head = LAYERS * forward_flops((), shape, 40, merged=True), 2 * 6 * 32 * 99
    assert COSTS.get("inference_flops")().of(hybrid, shape, 40) == layers + head
    assert COSTS.get("training_flops")().of(hybrid, shape, 40) == layers + head
    assert COSTS.get("training_flops")().reference(shape, 40) == 3 * (layers + head)


def test_what_cannot_be_masked_is_one_line(tmp_path: Path) -> None:
    from tiny_task import tokenizer as plain

    with pytest.raises(AutopeftError, match="the tokenizer has no mask token"):
        TokenizedTask.of(texts(), plain(), 32)
    chat = json.dumps({"turns": [{"role": "user", "content": "w1", "scored": True}]})
    data = replace(texts(), train=Split((row("w1 w2"), chat), None, (0, 0), "rows.jsonl:", (1, 2)))
    with pytest.raises(AutopeftError, match=r"rows.jsonl:2 .*: has turns of a chat"):
        TokenizedTask.of(data, tokenizer(), 32)
    data = replace(texts(), train=Split((row("w1 w2"), row("é")), None, (0, 0)))
    task = TokenizedTask.of(data, tokenizer(), 32)
    assert len(task.train) == 1
    assert any("1 of train's 2 (50.0%)" in remark and "left out" in remark for remark in task.remarks)
    with pytest.raises(AutopeftError, match="no text has a token that could be masked"):
        TokenizedTask.of(replace(texts(), test=Split((row("é"),), None, (0,))), tokenizer(), 32)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": f"w{i} w{i + 1}"}) + "\n" for i in range(20)))
    llama = str(save_language_model(tmp_path / "llama"))
    task_ = {"name": "files", "train": str(file), "readout": "masked_lm"}
    with pytest.raises(AutopeftError, match="its tokens see none after them, so it fills nothing in"):
        Session(Experiment.of(experiment(tmp_path, model=llama, task=task_), "test"))
    assert task_from({**task_, "seed": 5}).load().readout == MaskedLM(seed=5)


def test_a_search_exports_what_evaluates_and_loads(tmp_path: Path) -> None:
    files = {}
    (tmp_path / "texts").mkdir()
    for seed, (split, count) in enumerate({"train": 48, "validation": 16, "test": 16}.items()):
        files[split] = str(tmp_path / "texts" / f"{split}.jsonl")
        rng = random.Random(seed)
        rows = [{"text": " ".join(rng.choices(WORDS, k=6))} for _ in range(count)]
        Path(files[split]).write_text("".join(json.dumps(one) + "\n" for one in rows))
    model = save(tmp_path / "bert", "bert")
    changes: dict[str, Any] = {"task": {"name": "files", "readout": "masked_lm", **files}, "trials": 2}
    changes |= {"model": str(model), "space": "lora_ranks", "objectives": ["loss", "inference_flops", "training_flops"]}
    with not_measured():
        result = autopeft.search(out=tmp_path / "run", quiet=True, **experiment(tmp_path) | changes)
    chosen, out = result.front.points[0], tmp_path / "out"
    result.export(pick=chosen.key, to=out)
    measured = autopeft.evaluate(out)
    assert measured == pytest.approx({name: chosen.metrics[name] for name in measured}, rel=1e-5)
    assert list(autopeft.evaluate(out, on=files["test"]).values()) == pytest.approx(list(measured.values()))
    names: dict[str, Any] = {}
    card = (out / "README.md").read_text()
    exec(card.partition("```python\n")[2].partition("```")[0].replace("path/to/this/folder", str(out)), names)
    loaded = PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(model), str(out)).eval()
    ids = torch.tensor([[2, 9, MASK, 11, 3]])
    with torch.no_grad():
        assert torch.equal(names["model"](input_ids=ids).logits, loaded(input_ids=ids).logits)
