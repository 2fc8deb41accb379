"""Exports and their evaluation, when data are moved, files are damaged, or a record was edited."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from test_cli import autopeft
from test_export import RANKS
from test_export import export as exported
from test_trust import Project, change, original, project  # noqa: F401 - fixtures
from tiny_models import LABELS, classifier
from tiny_task import classes
from transformers import AutoModelForSequenceClassification

from autopeft import AutopeftError, evaluate, export, search
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.exporting import write_adapter
from autopeft.exporting.evaluation import load_export
from autopeft.models import find_model
from autopeft.tasks import task_from

Damage = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor] | bytes]


def first(tensors: dict[str, torch.Tensor], value: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    name = sorted(tensors)[0]
    return tensors | {name: value(tensors[name]).contiguous()}


DAMAGES: dict[str, Damage] = {
    "empty": lambda t: b"",
    "garbage": lambda t: b"\xff" * 100,
    "a header beyond the file": lambda t: (2**60).to_bytes(8, "little") + b"{}",
    "a tensor missing": lambda t: dict(sorted(t.items())[1:]),
    "a tensor too much": lambda t: t | {"more": torch.zeros(2)},
    "NaN": lambda t: first(t, lambda x: x * float("nan")),
    "infinite": lambda t: first(t, lambda x: torch.full_like(x, float("inf"))),
    "another shape": lambda t: first(t, lambda x: torch.cat([x, x])),
    "no elements": lambda t: first(t, lambda x: x[:0]),
    "whole numbers": lambda t: first(t, lambda x: x.long()),
}


def damage(path: Path, kind: str) -> None:
    made = DAMAGES[kind](load_file(path))
    path.unlink()
    path.write_bytes(made) if isinstance(made, bytes) else save_file(made, path)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_adapter_is_one_line(kind: str, project: Project, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    damage(project.export / "adapter_model.safetensors", kind)
    status, out, err = autopeft(capsys, "evaluate", str(project.export))
    assert (status, out, len(err.splitlines())) == (2, "", 1), err
    assert "adapter_model.safetensors" in err
    assert "export it again" in err


@pytest.mark.parametrize("kind", ["garbage", "a tensor missing", "NaN", "another shape"])
def test_damaged_weights_of_a_run_are_trained_again(
    kind: str,
    project: Project,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    (path,) = (project.run / "weights").iterdir()
    before = path.read_bytes()
    damage(path, kind)
    status, _, err = autopeft(capsys, "export", str(project.run), "--to", str(project.folder / "out"))
    assert status == 0, err
    assert "training it again" in err
    sound = (project.export / "adapter_model.safetensors").read_bytes()
    assert (project.folder / "out" / "adapter_model.safetensors").read_bytes() == sound
    assert path.read_bytes() == before


VALUES: list[Any] = [None, 3, -1.5, True, "x", "", [], ["a"], {}, {"a": 1}, 10**30, float("nan")]


def test_an_edited_record_is_one_line_or_measured(project: Project, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    path = project.export / "hybrid.json"
    record = json.loads(path.read_text())
    cases = [(record, name, value) for name in record for value in (..., *VALUES)]
    cases += [
        (record[part], name, v) for part in ("model", "task", "settings") for name in record[part] for v in VALUES
    ]
    for holder, name, value in cases[::3]:
        before = holder.pop(name)
        if value is not ...:
            holder[name] = value
        path.write_text(json.dumps(record))
        status, _, err = autopeft(capsys, "evaluate", str(project.export))
        assert status in (0, 2), (name, value, err)
        assert status == 0 or len([e for e in err.splitlines() if "error" in e]) == 1, (name, value, err)
        assert "Traceback" not in err
        holder[name] = before
    assert len(cases) > 300


@pytest.mark.parametrize("field", ["labels", "metrics", "hybrid", "num_labels"])
def test_a_record_of_the_wrong_kind_names_its_field(field: str, project: Project) -> None:  # noqa: F811
    change(project.export / "hybrid.json", **{field: None})
    with pytest.raises(AutopeftError, match=rf"hybrid\.json: {field}"):
        evaluate(project.export)


def test_an_adapter_of_another_shape_than_its_record(project: Project) -> None:  # noqa: F811
    hybrid = {"layers": [[{"method": "lora", "rank": 3, "sites": ["q"]}], [], []]}
    change(project.export / "hybrid.json", hybrid=hybrid)
    change(project.export / "adapter_config.json", hybrid=hybrid)
    with pytest.raises(AutopeftError, match=r"adapter_model\.safetensors: .*export it again"):
        evaluate(project.export)


def test_a_base_model_that_is_gone(project: Project) -> None:  # noqa: F811
    shutil.rmtree(project.model)
    with pytest.raises(AutopeftError, match="no such folder"):
        evaluate(project.export)


def test_without_the_training_data(project: Project, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    (project.folder / "train.jsonl").unlink()
    before = (project.export / "adapter_model.safetensors").read_bytes()
    out = export(project.run, to=project.folder / "out")
    assert (out / "adapter_model.safetensors").read_bytes() == before
    assert json.loads((out / "hybrid.json").read_text()) == json.loads((project.export / "hybrid.json").read_text())
    with pytest.raises(AutopeftError, match=r"train\.jsonl: no such file.*--on FILE"):
        evaluate(out)
    (path,) = (project.run / "weights").iterdir()
    path.unlink()
    with pytest.raises(AutopeftError, match=r"train\.jsonl: no such file.*were not kept"):
        export(project.run, to=project.folder / "again")


def test_a_run_without_facts_needs_the_data(project: Project) -> None:  # noqa: F811
    (project.run / "task.json").write_text("{}")
    export(project.run, to=project.folder / "out")
    (project.folder / "train.jsonl").unlink()
    with pytest.raises(AutopeftError, match="does not say enough of the task"):
        export(project.run, to=project.folder / "again")


def test_on_another_file(project: Project, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    measured = evaluate(project.export)
    (project.folder / "train.jsonl").unlink()
    again = evaluate(project.export, on=project.folder / "test.jsonl")
    assert {f"test_{name}": value for name, value in again.items()} == measured
    rows = (project.folder / "test.jsonl").read_text().splitlines()
    one = project.folder / "one.csv"
    one.write_text("label,text\n" + "".join(f"{json.loads(r)['label']},{json.loads(r)['text']}\n" for r in rows[:1]))
    status, out, err = autopeft(capsys, "evaluate", str(project.export), "--on", str(one), "--json")
    assert (status, sorted(json.loads(out))) == (0, ["accuracy", "loss"]), err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "other.jsonl",
            '{"text": "w1", "label": "else"}\n',
            r"other\.jsonl:1: label 'else' does not occur in the classes",
        ),
        ("other.jsonl", '{"txt": "w1", "label": "w1"}\n', "no text column 'text'"),
        ("other.jsonl", "", "no rows"),
        ("other.yaml", "", r"^\S*other\.yaml: is of no known format; known: \.jsonl"),
        ("other.csv", None, "no such file"),
    ],
)
def test_another_file_that_does_not_fit(name: str, content: str | None, said: str, project: Project) -> None:  # noqa: F811
    if content is not None:
        (project.folder / name).write_text(content)
    with pytest.raises(AutopeftError, match=said):
        evaluate(project.export, on=project.folder / name)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_padded_lora_is_the_same_with_one_rank(family: str, tmp_path: Path) -> None:
    """Each tensor scaled by alpha / its own rank, as some servers do, is scaled by 1."""
    base = tmp_path / "base"
    classifier(family).base_model.save_pretrained(base)
    _, inputs, logits = exported(base, RANKS, tmp_path / "own")
    source = find_model(str(base))
    weights = trained_weights(source, tmp_path / "own")
    written = write_adapter(source, weights[0], weights[1], classes(LABELS), tmp_path / "padded", "lora-padded")
    config = json.loads((tmp_path / "padded" / "adapter_config.json").read_text())
    assert (written, config["rank_pattern"], config["alpha_pattern"]) == ("LORA", {}, {})
    assert config["lora_alpha"] == config["r"] == max(weights[2])
    assert len(set(weights[2])) > 1, "the ranks differ"
    for name, tensor in load_file(tmp_path / "padded" / "adapter_model.safetensors").items():
        if "lora_" in name:
            assert tensor.shape[0 if "lora_A" in name else 1] == config["r"]
    fresh = AutoModelForSequenceClassification.from_pretrained(base, num_labels=LABELS)
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(fresh, tmp_path / "padded").eval()(**inputs).logits
    # Products of another inner size round otherwise.
    torch.testing.assert_close(loaded, logits, rtol=1e-4, atol=1e-5)


def trained_weights(source: Any, folder: Path) -> tuple[Any, dict[str, torch.Tensor], list[int]]:
    """The candidate, weights under our names that equal the stock LoRA in `folder`, and the ranks of its modules."""
    from tiny_models import perturb

    from autopeft.candidate import Candidate
    from autopeft.engine.pack import Pack
    from autopeft.engine.settings import TrainingSettings

    backbone = Backbone(source, classes(LABELS), REPORTED, torch.device("cpu"))
    with (
        Pack(backbone, [Candidate(RANKS)], TrainingSettings(head="drawn", method_rates="shared", seed=1)) as pack,
        torch.no_grad(),
    ):
        perturb(pack)
        weights = pack.weights(0)
    ranks = [t.shape[0] for n, t in load_file(folder / "adapter_model.safetensors").items() if "lora_A" in n]
    return Candidate(RANKS), weights, ranks


LORA_ONLY = {"sizes": "per_layer", "blocks": {"lora": {"rank": [0, 1, 4]}}}


def lora_search(folder: Path, project: Project, **fields: Any) -> Any:  # noqa: F811
    return search(project.yaml, out=folder, quiet=True, space=LORA_ONLY, trials=2, budget={}, **fields)


@pytest.mark.parametrize("form", ["lora", "lora-padded", "autopeft"])
def test_every_format_measures_the_same(form: str, project: Project, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    result = lora_search(project.folder / "lora", project)
    key = next(e.key for e in result.evaluations if not e.candidate.hybrid.is_empty)
    to = project.folder / "out"
    status, _, err = autopeft(
        capsys, "export", str(result.run_dir), "--pick", key, "--to", str(to), "--format", form
    )  # fmt: skip
    assert status == 0, err
    record = json.loads((to / "hybrid.json").read_text())
    assert record["format"] == form
    assert ("padded with zeros" in (to / "README.md").read_text()) == (form == "lora-padded")
    assert evaluate(to)["test_loss"] == pytest.approx(record["metrics"]["test_loss"], rel=1e-5)


def test_lora_that_is_none_is_one_line(project: Project, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    for form, said in (("lora-padded", "the candidate is no LoRA alone"), ("lroa", "did you mean 'lora'")):
        command = ("export", str(project.run), "--to", str(project.folder / "out"), "--format", form)
        status, _, err = autopeft(capsys, *command)
        assert (status, err.count("\n")) == (2, 1)
        assert said in err
    assert not (project.folder / "out").exists()


def test_an_objective_that_nothing_changes_is_told(project: Project, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    fields = yaml.safe_load(project.yaml.read_text())
    for space, told in ((LORA_ONLY, True), ("hybrid", False)):
        changed = fields | {"space": space, "budget": {}, "objectives": ["accuracy", "inference_flops"]}
        project.yaml.write_text(yaml.safe_dump(changed))
        status, out, err = autopeft(capsys, "plan", str(project.yaml), "--samples", "10", "--json")
        assert status == 0, err
        remarks = " ".join(json.loads(out)["remarks"])
        assert ("objective inference_flops is" in remarks) == told
        assert ("trainable_params" in remarks) == told


def pairs(folder: Path, **options: Any) -> Any:
    """A task of two classes, f1."""
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 20), ("test", 8), ("validation", 8)):
        labels = ["entailment", "not_entailment", "entailment", "entailment"] * (count // 4)
        rows = [json.dumps({"text": f"w{i}", "label": label}) for i, label in enumerate(labels)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    files = {s: str(folder / f"{s}.jsonl") for s in ("train", "validation", "test")}
    return task_from({"name": "files", "text": "text", "metric": ["f1", "accuracy"], **files, **options})


def test_the_positive_class_is_told_and_can_be_chosen(tmp_path: Path) -> None:
    later, first = pairs(tmp_path).load(), pairs(tmp_path, positive="entailment").load()
    assert "f1 is that of the class 'not_entailment'" in later.remarks[-1]
    assert "task.positive" in later.remarks[-1]
    assert "f1 is that of the class 'entailment'" in first.remarks[-1]
    assert (later.readout.positive, first.readout.positive) == (None, 0)
    assert later.fingerprint != first.fingerprint
    labels, logits = torch.tensor([0, 0, 0, 1]).numpy(), torch.tensor([[1.0, 0], [1, 0], [0, 1], [0.5, 0.5]]).numpy()
    assert later.readout.score(["f1"], labels, logits)["f1"] == 0.0
    # Two of three are found, and one of the three that are said is wrong: a tie is the first class, as for accuracy.
    assert first.readout.score(["f1", "accuracy"], labels, logits) == pytest.approx({"f1": 2 / 3, "accuracy": 0.5})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"positive": "entailed"}, "did you mean 'entailment'"),
        ({"positive": "entailment", "metric": "accuracy"}, "'f1' is not among the metrics"),
        ({"positive": ["entailment"]}, "positive"),
    ],
)
def test_a_positive_class_that_cannot_be_is_one_line(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match=said):
        pairs(tmp_path, **options).load()


def test_the_fingerprint_of_data_without_one_is_as_before(tmp_path: Path) -> None:
    """Of the text that was hashed before there was such an option."""
    import hashlib

    data = pairs(tmp_path).load()
    digest = hashlib.sha256(json.dumps([data.label_names, data.metrics]).encode())
    for split in (data.train, data.validation, data.test):
        digest.update(json.dumps([split.first, split.second, split.labels]).encode())
    assert data.fingerprint == digest.hexdigest()[:16]


def test_evaluate_knows_the_positive_class(project: Project) -> None:  # noqa: F811
    pairs(project.folder / "pairs")
    task = {"name": "files", "text": "text", "metric": "f1", "positive": "entailment"}
    task |= {s: str(project.folder / "pairs" / f"{s}.jsonl") for s in ("train", "validation", "test")}
    result = search(project.yaml, out=project.folder / "f1", quiet=True, task=task, trials=1)
    folder = export(result, to=project.folder / "out")
    record = json.loads((folder / "hybrid.json").read_text())
    assert record["positive"] == 0
    assert "class 'entailment'" in (folder / "README.md").read_text()
    assert evaluate(folder)["test_f1"] == pytest.approx(record["metrics"]["test_f1"])
    assert evaluate(folder, on=project.folder / "pairs" / "test.jsonl")["f1"] == evaluate(folder)["test_f1"]


def test_a_sound_export_loads_to_the_bit(project: Project) -> None:  # noqa: F811
    from peft.utils import get_peft_model_state_dict

    from autopeft.exporting import Record

    record = Record.read(project.export)
    model = load_export(project.export, record, find_model(record.model.name), 0)
    taken = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name, tensor in load_file(project.export / "adapter_model.safetensors").items():
        assert torch.equal(taken[name], tensor)


FOLDED = {
    "LORA": {"adalora": {"rank": [2, 4]}, "dylora": {"rank": [2, 4], "sites": ["o"]}},
    "IA3": {"ia3": {"active": [1]}},
    "VERA": {"vera": {"rank": [4, 8]}},
    "AUTOPEFT": {"prefix_mlp": {"length": [2]}, "norm": {"active": [1]}, "compacter": {"bottleneck": [4]}},
}


@pytest.mark.parametrize("kind", FOLDED)
def test_what_was_folded_measures_the_same(kind: str, project: Project) -> None:  # noqa: F811
    space = {"sizes": "per_layer", "blocks": FOLDED[kind]}
    result = search(project.yaml, out=project.folder / "search", quiet=True, space=space, trials=1, budget={})
    folder = export(result, "best", project.folder / "folded")
    record = json.loads((folder / "hybrid.json").read_text())
    best = result.front.best()
    assert (record["key"], record["peft_type"]) == (best.key, kind)
    folds = kind in ("LORA", "AUTOPEFT")
    assert (record["written"] == best.key) == (record["searched"] is None) == (not folds)
    card = (folder / "README.md").read_text()
    assert best.key in card
    assert ("folded into what computes the same" in card) == folds
    assert (record["written"] in card) == (folds or record["written"] == best.key)
    measured = evaluate(folder)
    assert measured == {name: pytest.approx(record["metrics"][name], abs=1e-6) for name in measured}
