"""A small translator of one's own, to search hybrids on where no pretrained one can be had: trained from nothing.

Marian's shape (3 + 3 layers, width 256) with a byte-level vocabulary of its own, on a folder with `train.jsonl` and
`dev.jsonl` of `source` and `target`, for as many seconds as it is given. It is no good translator, and nothing rests on
how good it is; its loss and BLEU (of greedy translations) are printed. The folder that it writes is a `model` of an
experiment with `readout: seq2seq_lm`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _trec import folder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

PAD, END = 0, 1
#: Of labels that are none; sentences in a step, and learning rate at the end of the warm-up.
IGNORED, BATCH, STEPS, RATE = -100, 64, 400, 1e-3
SHOWN = 200

Rows = list[tuple[list[int], list[int]]]


def tokenizer_of(texts: list[str], words: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE; a text ends with `</s>`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "</s>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=words, special_tokens=special, initial_alphabet=letters)
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="</s>", model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def padded(texts: list[list[int]], value: int) -> torch.Tensor:
    longest = max(map(len, texts))
    return torch.tensor([text + [value] * (longest - len(text)) for text in texts])


def batches(rows: Rows, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """All rows once, in steps of about equal lengths and in a random order."""
    random = torch.Generator().manual_seed(seed)
    noise = (torch.rand(len(rows), generator=random) * 4).tolist()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + noise[i])
    groups = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    for g in torch.randperm(len(groups), generator=random).tolist():
        yield inputs_of([rows[i] for i in groups[g]])


def inputs_of(rows: Rows) -> dict[str, torch.Tensor]:
    ids, labels = padded([source for source, _ in rows], PAD), padded([target for _, target in rows], IGNORED)
    given = torch.cat([torch.full((len(rows), 1), PAD), labels[:, :-1].clamp(min=PAD)], 1)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "decoder_input_ids": given, "labels": labels}


def loss_of(model: Any, batch: dict[str, torch.Tensor], smoothing: float) -> torch.Tensor:
    """The mean over the target's tokens."""
    labels = batch["labels"]
    logits = model(**{name: x for name, x in batch.items() if name != "labels"}).logits
    return functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing
    )


def train(model: Any, rows: Rows, seconds: float) -> int:
    """Train until the time is over; the steps that were taken."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / STEPS, (STEPS / (step + 1)) ** 0.5)
    )
    end, step = time.monotonic() + seconds, 0
    model.train()
    for epoch in range(1_000):
        for batch in batches(rows, epoch):
            if time.monotonic() > end:
                return step
            loss_of(model, {name: x.to(model.device) for name, x in batch.items()}, 0.1).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            step += 1
    return step


@torch.no_grad()
def judge(model: Any, tokenizer: Any, rows: Rows, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Loss, BLEU and one translation, on the first rows."""
    model.eval()
    sums = tokens = 0.0
    found: list[str] = []
    for i in range(0, min(SHOWN, len(rows)), BATCH):
        batch = {name: x.to(model.device) for name, x in inputs_of(rows[i : min(i + BATCH, SHOWN)]).items()}
        count = float((batch["labels"] != IGNORED).sum())
        sums, tokens = sums + count * float(loss_of(model, batch, 0.0)), tokens + count
        asked = {name: batch[name] for name in ("input_ids", "attention_mask")}
        found += tokenizer.batch_decode(model.generate(**asked, max_new_tokens=60), skip_special_tokens=True)
    judged: dict[str, Any] = {"loss": round(sums / tokens, 4), "translation": [pairs[0][0], found[0]]}
    try:
        from sacrebleu import corpus_bleu, corpus_chrf
    except ImportError:
        return judged
    goals = [[target for _, target in pairs[: len(found)]]]
    return judged | {
        "bleu": round(corpus_bleu(found, goals).score, 2),
        "chrf": round(corpus_chrf(found, goals).score, 2),
    }


def read(file: Path) -> list[tuple[str, str]]:
    return [(row["source"], row["target"]) for row in map(json.loads, file.read_text().splitlines())]


def main(
    data: Annotated[
        Path | None, typer.Option(help="folder of train.jsonl and dev.jsonl; default multi30k_en_de")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the model")] = Path("translator"),
    seconds: Annotated[float, typer.Option(help="of training")] = 600.0,
    width: Annotated[int, typer.Option()] = 256,
    words: Annotated[int, typer.Option(help="in the vocabulary")] = 4_000,
) -> None:
    data = data or folder("multi30k_en_de")
    pairs, dev = read(data / "train.jsonl"), read(data / "dev.jsonl")
    tokenizer = tokenizer_of([text for pair in pairs for text in pair], words)
    rows, judged = ([tuple(tokenizer(list(pair))["input_ids"]) for pair in part] for part in (pairs, dev[:SHOWN]))
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=len(tokenizer), d_model=width, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=3 * width, decoder_ffn_dim=3 * width, max_position_embeddings=128,
        pad_token_id=PAD, eos_token_id=END, bos_token_id=None, decoder_start_token_id=PAD, forced_eos_token_id=None,
        scale_embedding=True, share_encoder_decoder_embeddings=True, dropout=0.1,
    )  # fmt: skip
    model: Any = MarianMTModel(config).to("cuda" if torch.cuda.is_available() else "cpu")
    begin = time.process_time()
    steps = train(model, rows, seconds)
    facts = {"steps": steps, "epochs": round(steps * BATCH / len(rows), 2), "cpu_seconds": time.process_time() - begin}
    print(json.dumps(facts | judge(model, tokenizer, judged, dev), ensure_ascii=False))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    typer.run(main)
