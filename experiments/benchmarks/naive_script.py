"""What is quickly written: a trial loads everything anew, pads texts to 128 tokens, and trains in fp32 with dropout.

Prints a line of JSON with the trial's score (the last epoch's accuracy on validation) and seconds.
"""

from __future__ import annotations

import json
import time
from typing import Annotated

import _trec
import torch
import typer
from _candidates import LoraRanks, lora_config, model_folder
from peft import get_peft_model
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

BATCH, LENGTH, CLASSES = 32, 128, 6
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dataset(split: str) -> TensorDataset:
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    texts, labels = _trec.texts_and_labels(split)
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    return TensorDataset(encoded["input_ids"], encoded["attention_mask"], torch.tensor(labels))


@torch.no_grad()
def accuracy(model: torch.nn.Module, batches: DataLoader) -> float:
    model.eval()
    right = sum(
        int((model(input_ids=x.to(DEVICE), attention_mask=mask.to(DEVICE)).logits.argmax(-1).cpu() == y).sum())
        for x, mask, y in batches
    )
    return right / len(batches.dataset)  # type: ignore[arg-type]


def train(candidate: LoraRanks, epochs: int, seed: int) -> float:
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder(), num_labels=CLASSES)
    model = get_peft_model(model, lora_config(candidate)).to(DEVICE)
    training = DataLoader(dataset("train"), batch_size=BATCH, shuffle=True)
    validation = DataLoader(dataset("validation"), batch_size=BATCH)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=candidate.learning_rate)
    steps = epochs * len(training)
    schedule = get_linear_schedule_with_warmup(optimizer, int(0.06 * steps), steps)
    score = 0.0
    for _ in range(epochs):
        model.train()
        for x, mask, y in training:
            model(input_ids=x.to(DEVICE), attention_mask=mask.to(DEVICE), labels=y.to(DEVICE)).loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        score = accuracy(model, validation)
    return score


def main(
    candidate: Annotated[str, typer.Option(help='JSON: {"ranks": [a rank a layer], "learning_rate": number}')],
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    seed: int = 0,
) -> None:
    """Train one candidate."""
    chosen = LoraRanks.of(json.loads(candidate))
    start = time.perf_counter()
    score = train(chosen, epochs, seed)
    trial = {**json.loads(chosen.to_json()), "score": score, "seconds": time.perf_counter() - start}
    print(json.dumps({"trials": [trial]}))


if __name__ == "__main__":
    typer.run(main)
