"""Readouts: what stood before them is as it was, entities are those of the CoNLL evaluation, words meet their tokens.

Shapes: K candidates, B examples in a batch, L tokens, C classes.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CONFIGS, FAMILIES, LAYERS
from tiny_packs import bench, mixed
from tiny_project import make_data
from tiny_task import classes, sets, tags, tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerFast

from autopeft.anatomy import head_names
from autopeft.attention import FUSED, MATMUL
from autopeft.engine.backbone import REPORTED
from autopeft.engine.data import TokenizedTask, collate
from autopeft.engine.pack import Pack
from autopeft.errors import AutopeftError
from autopeft.readouts import IGNORED, READOUTS, Measure, implied, readout_from, stated
from autopeft.readouts.classification import Classification
from autopeft.readouts.multi_label import MultiLabel
from autopeft.readouts.regression import Regression
from autopeft.readouts.tokens import Tokens, entities
from autopeft.tasks import TaskData, task_from

OUTPUTS = ((torch.arange(24) * 7) % 11 - 5).view(2, 4, 3) / 2
TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")

# --- what stood before -----------------------------------------------------------------------------------------------


def test_classes_score_what_they_scored() -> None:
    """Numbers of the version before there were readouts."""
    labels, readout = torch.tensor([1, 2, 1, 0]), classes(3)
    assert readout.loss(OUTPUTS, labels).tolist() == pytest.approx([1.645493507385254, 2.350802183151245], rel=1e-6)
    found = readout.score(["accuracy", "f1", "f1_macro", "matthews"], labels.numpy(), OUTPUTS[0].numpy())
    expected = {"accuracy": 0.5, "f1": 0.38888888888888884, "f1_macro": 0.38888888888888884}
    assert found == pytest.approx(expected | {"matthews": 0.3872983346207417}, rel=1e-12)
    two = [replace(classes(2), positive=positive) for positive in (None, 1, 0)]
    of_two = [one.score(["f1"], np.array([0, 1, 1, 0]), OUTPUTS[0, :, :2].numpy())["f1"] for one in two]
    assert of_two == pytest.approx([0.0, 0.0, 0.4], rel=1e-12)


def test_real_values_score_what_they_scored() -> None:
    labels, readout = torch.tensor([0.1, -2, 1.3, 0]), Regression()
    assert readout.loss(OUTPUTS[:, :, :1], labels).tolist() == pytest.approx([7.437499523162842, 2.25], rel=1e-6)
    found = readout.score(["spearman", "pearson", "mse"], labels.numpy(), OUTPUTS[0, :, :1].numpy())
    expected = {"spearman": -0.39999999999999997, "pearson": -0.2265169220147916, "mse": 7.437500018626452}
    assert found == pytest.approx(expected, rel=1e-12)


def test_fingerprints_are_as_before(tmp_path: Path) -> None:
    files = make_data(tmp_path)
    fields = {"name": "files", "text": "text", **files}
    assert task_from(fields).load().fingerprint == "ee4760cc32d67358"
    assert task_from(fields | {"readout": "classification"}).load().fingerprint == "ee4760cc32d67358"
    for split, count in (("train", 40), ("validation", 8), ("test", 8)):
        rows = [json.dumps({"text": f"w{i}", "label": i / 8 + 0.05}) + "\n" for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(rows))
    assert task_from(fields).load().fingerprint == "840833df79558897"


def test_records_name_what_labels_do_not_imply() -> None:
    for known in (classes(3), replace(classes(2), positive=0), Regression()):
        assert stated(known) is None
        assert implied(known.labels, getattr(known, "positive", None)) == known
    for new in (MultiLabel(("a", "b")), Tokens(TAGS)):
        assert readout_from(json.loads(json.dumps(stated(new)))) == new
    assert sets().fingerprint != replace(sets(), readout=Classification(("a", "b", "c"))).fingerprint


@pytest.mark.parametrize("kind", READOUTS.names())
def test_a_readout_is_a_value(kind: str) -> None:
    readout = readout_from({"name": kind, "labels": []}) if kind == "regression" else READOUTS.get(kind)(TAGS)
    assert readout_from(json.loads(json.dumps(readout.to_json()))) == readout
    assert hash(readout) == hash(replace(readout))
    assert pickle.loads(pickle.dumps(readout)) == readout
    wrongs = {"unknown readout": {"name": "clas"}, "no field 'more'": {"name": kind, "more": 1}}
    wrongs[r"labels.*: input should be"] = {"name": kind, "labels": [1]}
    for said, wrong in wrongs.items():
        with pytest.raises(AutopeftError, match=said):
            readout_from(wrong)


# --- entities --------------------------------------------------------------------------------------------------------

#: Worked out by hand, by the rules of conlleval.pl.
EXTENTS = [
    ("O B-PER I-PER O", {("PER", 1, 2)}),
    ("I-PER I-PER", {("PER", 0, 1)}),
    ("I-PER B-PER I-PER", {("PER", 0, 0), ("PER", 1, 2)}),
    ("B-PER I-LOC I-LOC O", {("PER", 0, 0), ("LOC", 1, 2)}),
    ("O I-LOC O I-LOC", {("LOC", 1, 1), ("LOC", 3, 3)}),
    ("B-LOC B-LOC", {("LOC", 0, 0), ("LOC", 1, 1)}),
    ("S-LOC S-LOC B-PER I-PER E-PER I-PER", {("LOC", 0, 0), ("LOC", 1, 1), ("PER", 2, 4), ("PER", 5, 5)}),
    ("O O", set()),
]


@pytest.mark.parametrize(("text", "expected"), EXTENTS)
def test_entities_are_those_of_the_conll_evaluation(text: str, expected: set[tuple[str, int, int]]) -> None:
    assert entities(text.split()) == expected


def scored(labels: Sequence[str], predictions: Sequence[str], offsets: Sequence[int] | None = None) -> dict[str, float]:
    names = [TAGS.index(tag) if tag else IGNORED for tag in labels]
    outputs = np.eye(len(TAGS))[[TAGS.index(tag) for tag in predictions]]
    edges = None if offsets is None else np.array(offsets)
    return Tokens(TAGS).score(list(Tokens.own_metrics), np.array(names), outputs, edges)


def test_scores_worked_out_by_hand() -> None:
    """Three entities, three predicted, one right; a token without a label counts nowhere."""
    labels = ["", "B-PER", "I-PER", "", "O", "B-LOC", "B-LOC"]
    predictions = ["B-LOC", "B-PER", "I-PER", "O", "B-PER", "B-LOC", "I-LOC"]
    found = scored(labels, predictions)
    assert found == pytest.approx(
        {"f1_entity": 1 / 3, "precision_entity": 1 / 3, "recall_entity": 1 / 3, "accuracy": 3 / 5}
    )


def test_no_entity_goes_on_in_the_next_sentence() -> None:
    labels, predictions = ["B-PER", "I-PER"], ["B-PER", "B-PER"]
    assert scored(labels, predictions, [0, 1, 2])["f1_entity"] == 1
    assert scored(labels, predictions, [0, 2])["f1_entity"] == 0


@settings(max_examples=30)
@given(st.lists(st.sampled_from(TAGS), min_size=1, max_size=30), st.data())
def test_all_right_is_one_and_all_outside_is_zero(labels: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(labels)))
    there = any(tag != "O" for tag in labels)
    right, none = (scored(labels, other, [0, cut, len(labels)]) for other in (labels, ["O"] * len(labels)))
    assert right["accuracy"] == 1
    assert right["f1_entity"] == right["recall_entity"] == there
    assert none["f1_entity"] == none["recall_entity"] == none["precision_entity"] == 0


def test_sets_of_classes_are_scored_class_by_class() -> None:
    readout = MultiLabel(("a", "b"))
    labels = readout.array([(0,), (0, 1), ()])
    outputs = torch.tensor([[1.0, 1.0], [2.0, 3.0], [-1.0, -0.1]])
    found = readout.score(list(readout.own_metrics), labels, outputs.numpy())
    assert found == pytest.approx({"f1_micro": 6 / 7, "f1_macro": (1 + 2 / 3) / 2, "subset_accuracy": 2 / 3})
    expected = functional.binary_cross_entropy_with_logits(outputs, torch.from_numpy(labels))
    assert readout.loss(outputs[None], torch.from_numpy(labels)).item() == pytest.approx(expected.item())


# --- words and tokens ------------------------------------------------------------------------------------------------


def pieces() -> PreTrainedTokenizerFast:
    """Byte-level pairs that merge little: a word is several tokens, and its space is one of the first's characters."""
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet | {"un": 256, "<pad>": 257}, merges=[("u", "n")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", model_max_length=64)


def words_of(texts: Sequence[str], labels: Sequence[tuple[int, ...]]) -> TaskData:
    split = replace(tags((len(texts),) * 3).train, first=tuple(texts), labels=tuple(labels))
    return TaskData("words", split, split, split, Tokens(("A", "B", "C")), ("accuracy",), "")


def test_a_word_that_is_several_tokens_has_its_label_at_the_first() -> None:
    made = TokenizedTask.of(words_of(["ab un c", "é a"], [(0, 1, 2), (1, 0)]), pieces(), 64).train
    x = IGNORED
    # a b, space, un, space, c: the space of a word comes before it.
    assert made.labels.tolist() == [0, x, x, 1, x, 2, 1, x, x, 0]
    assert made.weights.tolist() == [3, 2]
    batch = collate(made, np.array([1, 0]), 257)
    assert batch.labels.tolist() == [[1, x, x, 0, x, x], [0, x, x, 1, x, 2]]
    assert batch.part(0, 1).weight == 2


@pytest.mark.parametrize(("side", "expected"), [("right", [0, 1]), ("left", [1, 2])])
def test_words_that_are_cut_away_have_no_label(side: str, expected: list[int]) -> None:
    words = tokenizer()
    words.truncation_side = side
    made = TokenizedTask.of(words_of(["w1 w2 w3", "w1 w2"], [(0, 1, 2), (0, 1)]), words, 4)
    assert made.train.labels.tolist() == [IGNORED, *expected, IGNORED, IGNORED, 0, 1, IGNORED]
    assert "are cut" in made.remarks[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_taggers_head_is_known(family: str) -> None:
    """What transformers puts on a base model, and no more, is trained from scratch."""
    with torch.device("meta"):
        model = AutoModelForTokenClassification.from_config(CONFIGS[family](num_labels=3))
    base = {f"{model.base_model_prefix}.{name}" for name, _ in model.base_model.named_parameters()}
    heads = tuple(f"{name}." for name in head_names(model))
    others = [name for name, _ in model.named_parameters() if name not in base]
    assert others
    assert all(name.startswith(heads) for name in others)


# --- packs -----------------------------------------------------------------------------------------------------------


SLOW = pytest.mark.slow
SCENES = [
    pytest.param(tags, "bert", FUSED, 1),
    pytest.param(sets, "llama", MATMUL, 1),
    pytest.param(tags, "llama", MATMUL, 4, marks=SLOW),
    pytest.param(sets, "bert", FUSED, 4, marks=SLOW),
]


@pytest.mark.parametrize(("data", "family", "attention", "epochs"), SCENES)
def test_packed_is_alone(data: Any, family: str, attention: str, epochs: int, tmp_path: Path) -> None:
    """With all layers computed or the frozen ones kept, and with one that is sliced out on the way."""
    made = bench(tmp_path, family, attention, other=data())
    made = replace(made, settings=made.settings.model_copy(update={"epochs": epochs}))
    members = mixed(LAYERS, seed=3)[1 if epochs > 1 else 2 :]
    alone = [made.train([member])[0] for member in members]
    assert all(max(one.losses) - min(one.losses) > 1e-3 for one in alone)
    packs = [made.train(members, made.frozen()), made.train(members, None, {6: [1]})]
    packs += [made.train(members)] if epochs > 1 else []
    for i, pack in enumerate(packs):
        for k, (one, other) in enumerate(zip(pack, alone, strict=True)):
            assert one.losses == pytest.approx(other.losses[: len(one.losses)], rel=1e-5)
            if (i, k) == (1, 1):
                assert len(one.losses) == 7
                continue
            torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)


def test_parts_of_a_batch_weigh_what_is_labelled_in_them(tmp_path: Path) -> None:
    """A pack's batch that goes through in parts gives the loss of the whole."""
    made = bench(tmp_path, "bert", FUSED, other=tags())
    batch, losses = collate(made.data.train, np.arange(12), made.data.pad_id), []
    for budget in (10**6, 40):
        with Pack(made.backbone, mixed(LAYERS, seed=3)[-1:], made.settings, steps=3) as pack:
            pack.token_budget = budget
            losses.append([pack.step(batch, {}, made.data.readout).item() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(("data", "cut"), [(tags, False), (sets, True)])
def test_the_last_layer_is_cut_where_one_token_is_read(data: Any, cut: bool, tmp_path: Path) -> None:
    """What a pack says is what it says with all tokens computed."""
    made = bench(tmp_path, "bert", FUSED, other=data())
    batch = collate(made.data.train, np.arange(6), made.data.pad_id)
    found = []
    for precision in (made.backbone.precision, REPORTED):
        made.backbone.precision = precision
        with Pack(made.backbone, mixed(LAYERS, seed=3)[:1], made.settings) as pack, torch.no_grad():
            assert (pack._first_token is not None) == (cut and precision is not REPORTED)
            found.append(pack.forward(batch, {}))
    seen = batch.inputs["attention_mask"].bool() if made.data.readout.per_token else slice(None)
    torch.testing.assert_close(found[0][0][seen], found[1][0][seen], rtol=1e-4, atol=1e-5)


# --- files -----------------------------------------------------------------------------------------------------------


def load(tmp_path: Path, name: str, content: str, **fields: Any) -> TaskData:
    (tmp_path / name).write_text(content)
    return task_from({"name": "files", "train": str(tmp_path / name), "validation_share": 0.3, **fields}).load()


CONLL = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nPeter NNP B-PER\nBlackburn NNP I-PER\n\n" * 4


def test_conll_files_are_read(tmp_path: Path) -> None:
    data = load(tmp_path, "train.conll", CONLL)
    assert data.readout == Tokens(("B-ORG", "B-PER", "I-ORG", "I-PER", "O"))
    assert data.metrics == ("f1_entity",)
    assert set(data.train.first) == {"EU rejects", "Peter Blackburn"}
    assert dict(zip(data.train.first, data.train.labels, strict=True)) == {
        "EU rejects": (0, 4),
        "Peter Blackburn": (1, 3),
    }
    rows = [{"tokens": ["EU", "rejects"], "labels": ["B-ORG", "O"]}] * 6
    rows += [{"tokens": "Peter Blackburn", "labels": "B-PER I-PER"}] * 6
    same = load(tmp_path, "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows), readout="tokens")
    assert same.readout == data.readout
    assert set(same.train.labels) == set(data.train.labels)


def test_sets_are_lists_or_have_bars_between(tmp_path: Path) -> None:
    fields = {"text": "text", "readout": "multi_label"}
    rows = [["a", "b"], "b|a", "c", [], '["b", "c"]', "a"] * 2
    data = load(
        tmp_path,
        "a.jsonl",
        "".join(json.dumps({"text": f"{i}", "label": r}) + "\n" for i, r in enumerate(rows)),
        **fields,
    )
    assert data.readout == MultiLabel(("a", "b", "c"))
    assert set(data.train.labels) | set(data.test.labels) == {(0, 1), (2,), (), (1, 2), (0,)}
    csv = "text,label\n" + "x,a|b\ny,b\nz,[]\n" * 4
    assert set(load(tmp_path, "a.csv", csv, **fields).train.labels) == {(0, 1), (1,), ()}


def test_data_sets_of_numbered_tags_are_read(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    features = Features({"words": Sequence(Value("string")), "ner": Sequence(ClassLabel(names=["O", "B-X", "I-X"]))})
    rows = {"words": [["a", "b"], ["c", "d", "e"]] * 6, "ner": [[0, 1], [1, 2, 0]] * 6}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    data = task_from(
        {"name": "hub", "path": str(tmp_path / "set"), "text": "words", "label": "ner", "readout": "tokens"}
    ).load()
    assert data.readout == Tokens(("O", "B-X", "I-X"))
    assert set(zip(data.train.first, data.train.labels, strict=True)) == {("a b", (0, 1)), ("c d e", (1, 2, 0))}


ROWS = [
    ("a.conll", "EU B-ORG\nrejects\n", {}, r"a\.conll:2: 'rejects' is no word with a label; write 2 columns"),
    ("a.conll", "\nEU\n", {}, r"a\.conll:2: 'EU' is no word with a label; write a word"),
    ("a.conll", "EU B-ORG\nrejects O\n", {"metric": "f1"}, "'f1' does not fit labels of words; choose of f1_entity"),
    ("a.conll", "EU X\nrejects Y\n" * 9, {"metric": "f1_entity"}, "needs BIO tags"),
    ("a.conll", "a O\n\nb O\n\nc O\n", {}, "every word has the same label"),
    ("a.jsonl", '{"tokens": ["a", "b"], "labels": ["O"]}', {"readout": "tokens"}, r":1: 2 words and 1 labels"),
    ("a.jsonl", '{"tokens": ["a", 3], "labels": ["O", "O"]}', {"readout": "tokens"}, r":1: word 2 is 3, and no text"),
    ("a.jsonl", '{"tokens": [], "labels": []}', {"readout": "tokens"}, r":1: column 'tokens' holds no list but \[\]"),
    ("a.jsonl", '{"tokens": ["a"]}', {"readout": "tokens"}, r":1: no label column 'labels'"),
    (
        "a.jsonl",
        '{"text": "a", "label": ""}',
        {"readout": "multi_label", "text": "text"},
        r":1: .* is empty; write \[\]",
    ),
    ("a.jsonl", '{"text": "a", "label": [[1]]}', {"readout": "multi_label", "text": "text"}, ":1: .*no single value"),
    (
        "a.jsonl",
        '{"text": "a", "label": [1]}',
        {"text": "text"},
        ":1: .*no single value .*; say readout: multi_label",
    ),
    ("a.jsonl", "", {"readout": "sets", "text": "text"}, "unknown readout 'sets'"),
    ("a.jsonl", "", {"readout": "tokens", "regression": True, "text": "t"}, "leave 'regression' out"),
]


@pytest.mark.parametrize(("name", "content", "fields", "said"), ROWS)
def test_a_wrong_row_is_one_line(name: str, content: str, fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match=said) as caught:
        load(tmp_path, name, content, **fields)
    assert "\n" not in str(caught.value)


def test_a_tag_that_train_lacks_has_its_word(tmp_path: Path) -> None:
    (tmp_path / "test.conll").write_text("EU B-ORG\nNiger B-LOC\n")
    with pytest.raises(AutopeftError, match=r"test\.conll:1, word 2 \('Niger'\): label 'B-LOC' does not occur in"):
        load(tmp_path, "train.conll", CONLL, test=str(tmp_path / "test.conll"))


# --- a new kind ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ordinal(Regression):
    """Ranks as values: a plug-in with a loss and a metric of its own."""

    name: ClassVar[str] = "ordinal"
    called: ClassVar[str] = "ranks"
    scored_as: ClassVar[str] = ""
    own_metrics = {"off_by": Measure(lambda labels, ranks: float(np.abs(labels - ranks.round()).mean()), "min")}

    @property
    def identity(self) -> tuple[Any, ...]:
        return (self.name,)

    @property
    def default_metrics(self) -> tuple[str, ...]:
        return ("off_by",)

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (outputs.squeeze(-1) - labels).abs().mean(1)


def test_a_new_kind_needs_its_own_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_project import experiment, not_measured

    import autopeft
    from autopeft.searching.objective import Objective

    monkeypatch.setitem(READOUTS._found, "ordinal", Ordinal)
    fields = experiment(tmp_path, trials=1)
    for path in tmp_path.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row | {"label": int(row["label"][1:])}) + "\n" for row in rows))
    fields["task"]["readout"] = "ordinal"
    with not_measured():
        result = autopeft.search(out=tmp_path / "run", quiet=True, **fields)
    out = result.export(to=tmp_path / "out")
    assert Objective(**result.header["objectives"][0]) == Objective(metric="off_by", direction="min")
    assert autopeft.evaluate(out)["test_off_by"] == result.front.points[0].metrics["test_off_by"]
