"""A search of a language model from rows to an adapter that generates, and what its costs count."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_models import CONFIGS, LAYERS, everywhere, make, perturb, randomise, tokens
from tiny_packs import SETTINGS
from tiny_project import search
from tiny_task import WORDS, save_language_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import autopeft.peft_tuner  # noqa: F401 - registers the PEFT type
from autopeft.anatomy import shape_of
from autopeft.attaching import Attachment
from autopeft.attention import MATMUL
from autopeft.candidate import Candidate
from autopeft.costs import COSTS
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.engine.pack import Pack
from autopeft.errors import AutopeftError
from autopeft.exporting import write_adapter
from autopeft.exporting.evaluation import measure_export
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential
from autopeft.models import find_model
from autopeft.readouts.causal_lm import CausalLM
from autopeft.result import SearchResult
from autopeft.searching.objective import Objective
from autopeft.searching.tables import columns


def rows(path: Path, count: int, seed: int) -> str:
    """Texts whose end repeats a word of their beginning."""
    rng, lines = random.Random(seed), []
    for _ in range(count):
        words = rng.choices(WORDS, k=rng.randrange(2, 6))
        row = {"prompt": " ".join(words), "completion": f" {words[0]} {WORDS[0]}"}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines))
    return str(path)


def fields(folder: Path) -> dict[str, Any]:
    save_language_model(folder / "model")
    sizes = {"train": 64, "validation": 24, "test": 24}
    files = {name: rows(folder / f"{name}.jsonl", n, i) for i, (name, n) in enumerate(sizes.items())}
    training = {"epochs": 2, "batch_tokens": 160, "max_length": 12, "precision": "fp32", "learning_rate": 1e-2}
    return {
        "model": str(folder / "model"),
        "task": {"name": "files", "readout": "causal_lm", **files},
        "training": training | {"checkpoint": True},
        "budget": {"training_flops": "60%"},
        "descent": {"share": 0.4},
        "controls": ["lora"],
    }


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    folder = tmp_path_factory.mktemp("lm")
    return search(folder, folder / "run", fields(folder), trials=6)


def test_a_search_makes_the_loss_small(result: SearchResult) -> None:
    assert result.experiment.objectives is None
    assert [(o["metric"], o["direction"]) for o in result.header["objectives"]] == [
        ("loss", "min"),
        ("trainable_params", "min"),
    ]
    done = [e for e in result.evaluations if e.status == "done"]
    best = result.front.best()
    assert best.metrics["loss"] == min(e.metrics["loss"] for e in done)
    assert all(e.error is None for e in result.evaluations)
    assert {"perplexity", "token_accuracy", "test_loss", "test_perplexity"} <= best.metrics.keys()


def test_what_is_exported_gives_the_recorded_loss(result: SearchResult, tmp_path: Path) -> None:
    to = result.export(to=tmp_path / "out")
    recorded = json.loads((to / "hybrid.json").read_text())["metrics"]["test_loss"]
    assert measure_export(to)["test_loss"] == pytest.approx(recorded, rel=1e-5)
    assert AutoTokenizer.from_pretrained(to).chat_template is None
    card = (to / "README.md").read_text()
    assert "model.generate" in card
    assert "num_labels" not in card
    assert "AutoModelForCausalLM" in card


def test_what_is_exported_for_llama_cpp_is_measured_again_too(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    changed = {"space": {"blocks": {"lora": {"rank": [1, 2, 4]}}}, "controls": "none", "descent": "none", "budget": {}}
    result = search(tmp_path, tmp_path / "run", fields(tmp_path) | changed, trials=1)
    to = result.export(to=tmp_path / "out", format="gguf")
    record = json.loads((to / "hybrid.json").read_text())
    assert (record["format"], record["peft_type"], "adapter.gguf" in record["files"]) == ("gguf", "LORA", True)
    assert measure_export(to)["test_loss"] == pytest.approx(record["metrics"]["test_loss"], rel=1e-5)
    assert "llama-server -m BASE.gguf --lora adapter.gguf" in (to / "README.md").read_text()


def test_turns_are_exported_with_the_template_that_they_were_written_with(tmp_path: Path) -> None:
    """The model brings none."""
    asked = fields(tmp_path)
    for split in ("train", "validation", "test"):
        file = Path(asked["task"][split])
        found = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text(
            "".join(json.dumps({"question": row["prompt"], "answer": row["completion"]}) + "\n" for row in found)
        )
    asked["training"] |= {"max_length": 64, "epochs": 1}
    result = search(tmp_path, tmp_path / "run", asked, trials=1, controls="none", descent="none")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template is None
    to = result.export(to=tmp_path / "out")
    assert "### Instruction:" in AutoTokenizer.from_pretrained(to).chat_template
    assert "apply_chat_template" in (to / "README.md").read_text()


HYBRIDS = [
    everywhere(LoRA(2, sites=("q", "v"))),
    Hybrid.from_layers(LAYERS, {0: [Prefix(2)], 1: [LoRA(3, sites=("up",)), Sequential(2)], 2: [make("parallel", 3)]}),
]


@pytest.mark.parametrize("hybrid", HYBRIDS, ids=["LORA", "AUTOPEFT"])
def test_exports_generate_what_the_pack_generates(hybrid: Hybrid, tmp_path: Path) -> None:
    source = find_model(str(save_language_model(tmp_path / "model")))
    backbone = Backbone(source, CausalLM(), REPORTED, torch.device("cpu"), 0)
    ids = tokens(2, 5)
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    bare = backbone.model.generate(ids, **options)
    with Pack(backbone, [Candidate(hybrid)], SETTINGS) as pack:
        perturb(pack.attachment.banks)
        ours = backbone.model.generate(ids, **options)
        weights = pack.weights(0)
    kind = write_adapter(source, Candidate(hybrid), weights, CausalLM(), tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    assert torch.equal(model.generate(input_ids=ids, **options), ours)
    assert not torch.equal(ours, bare)
    assert kind == ("LORA" if hybrid is HYBRIDS[0] else "AUTOPEFT")
    assert model.peft_config["default"].task_type == "CAUSAL_LM"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("w1 w2")["input_ids"]


def test_directions() -> None:
    assert Objective.of("perplexity").direction == "min"
    assert Objective.of("token_accuracy").direction == "max"


def language_model(family: str) -> PreTrainedModel:
    return randomise(AutoModelForCausalLM.from_config(CONFIGS[family]()), 0).requires_grad_(False)


def counted(counter: FlopCounterMode) -> int:
    outside = sum(sum(c.values()) for n, c in counter.get_flop_counts().items() if n.endswith("rotary_emb"))
    return counter.get_total_flops() - outside


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("hybrid", [*HYBRIDS, everywhere()], ids=["lora", "mixed", "none"])
def test_flops_with_the_head_are_those_that_torch_counts(family: str, hybrid: Hybrid) -> None:
    model, length = language_model(family), 6
    shape, ids = shape_of(model), tokens(1, length)
    assert shape.words == 99
    with Attachment(model, hybrid, attention=MATMUL), FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids).logits.sum()
        if loss.requires_grad:
            loss.backward()
    assert COSTS.get("training_flops")().of(hybrid, shape, length) == counted(counter)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("hybrid", [HYBRIDS[1], everywhere()], ids=["mixed", "none"])
def test_generating_costs_what_torch_counts(family: str, hybrid: Hybrid) -> None:
    model, length = language_model(family), 9
    kept = Hybrid(tuple(tuple(m for m in methods if not m.mergeable) for methods in hybrid.layers))
    with Attachment(model, kept, attention=MATMUL), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.generate(tokens(1, 5), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    cost = COSTS.get("inference_flops")()
    assert cost.of(hybrid, shape_of(model), length) == counted(counter)


@pytest.mark.slow
def test_a_search_by_loss_is_explained(result: SearchResult) -> None:
    assert result.explain().to_json()


@pytest.mark.slow
def test_a_fresh_process_gives_the_recorded_loss(result: SearchResult, tmp_path: Path) -> None:
    to = result.export(to=tmp_path / "out")
    recorded = json.loads((to / "hybrid.json").read_text())["metrics"]["test_loss"]
    command = [sys.executable, "-m", "autopeft", "evaluate", str(to), "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["test_loss"] == pytest.approx(recorded, rel=1e-5)


# --- what is written


def asked(folder: Path, **generation: Any) -> dict[str, Any]:
    """The same search, of fewer and larger steps, with what is written measured on test."""
    found = fields(folder)
    found["training"] |= {"epochs": 1, "batch_tokens": 80}
    metrics = ["bleu", "exact_match"]
    off = {"controls": "none", "descent": "none", "trials": 2}
    return found | off | {"generation": {"metrics": metrics, "max_new_tokens": 4, "limit": 9, **generation}}


def test_what_is_written_is_measured_on_test_recorded_and_measured_again(tmp_path: Path) -> None:
    given = asked(tmp_path)
    run = tmp_path / "run"
    without = search(tmp_path, run, {k: v for k, v in given.items() if k != "generation"})
    before = {e.key: e.metrics for e in without.evaluations}
    assert not any("bleu" in name for e in without.evaluations for name in e.metrics)
    assert "generation" not in (run / "task.json").read_text() + (run / "experiment.yaml").read_text()
    # A search that has ended is asked later.
    result = search(tmp_path, run, given)
    for e in result.evaluations:
        on_front = e.key in {point.key for point in result.front.points}
        assert ({"test_bleu", "test_exact_match"} <= e.metrics.keys()) == on_front
        assert {name: value for name, value in e.metrics.items() if name in before[e.key]} == before[e.key]
    assert "test_bleu" in (run / "trials.csv").read_text().splitlines()[0]
    assert [c.header for c in columns(result.front, result.front.points)][4:6] == ["bleu", "exact_match"]
    assert result.signatures.keys() == {"test_bleu"}
    to = result.export(to=tmp_path / "out")
    record = json.loads((to / "hybrid.json").read_text())
    assert record["generation"]["signatures"]["bleu"].startswith("BLEU|nrefs:")
    assert record["generation"]["signatures"]["bleu"] in (to / "README.md").read_text()
    measured = measure_export(to)
    assert measured["test_bleu"] == pytest.approx(record["metrics"]["test_bleu"], rel=1e-6)
    assert measured["test_exact_match"] == record["metrics"]["test_exact_match"]
    other = measure_export(to, on=Path(given["task"]["validation"]))
    assert {"bleu", "exact_match", "loss"} <= other.keys()
    # Asked otherwise, it is measured anew.
    given["generation"]["max_new_tokens"] = 1
    short = search(tmp_path, run, given)
    assert {e.metrics["test_exact_match"] for e in short.front.points} == {0.0}
    assert "at most 1 new token" in json.loads((run / "task.json").read_text())["generation"]["way"]


def test_what_cannot_be_written_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    given = asked(tmp_path, max_new_tokens=64)
    with pytest.raises(AutopeftError, match=r"64 tokens .* leave no position of the model"):
        search(tmp_path, tmp_path / "run", given)
    with pytest.raises(AutopeftError, match="'bleu' is of texts that a model writes; name it in the experiment's"):
        search(tmp_path, tmp_path / "run", given | {"task": given["task"] | {"metric": "bleu"}})
