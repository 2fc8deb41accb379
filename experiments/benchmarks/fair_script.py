"""What a good user writes with the same libraries, and without autopeft.

Ray Tune and Optuna's TPE over accuracy and parameters; an actor loads the model and tokenises the data once, and takes
one LoRA off and the next one on; batches of about equal lengths, padded to their longest; bf16 autocast, no dropout in
the frozen backbone, larger batches for evaluation.

Prints a line of JSON: the trials, `span`, the seconds from the first one's beginning to the last one's end, and `busy`,
the same of each worker for itself, on average over the workers.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

# What it costs in memory and time that nobody asked for.
os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_USAGE_STATS_ENABLED": "0"}

import _trec
import numpy as np
import ray
import torch
import typer
from _candidates import LAYERS, LEARNING_RATES, MOST_PARAMS, RANKS, LoraRanks, lora_config, model_folder
from peft import get_peft_model
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

BATCH, LENGTH, CLASSES, GROUP = 32, 128, 6, 50


@dataclass(frozen=True)
class Settings:
    epochs: int = 3
    seed: int = 0
    dropout: bool = False
    precision: str = "bf16"


class Data:
    """A split, tokenised, without padding."""

    def __init__(self, split: str, tokenizer: Any) -> None:
        texts, labels = _trec.texts_and_labels(split)
        self.ids = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
        self.labels = torch.tensor(labels)
        self.lengths = np.array([len(ids) for ids in self.ids])
        self.pad = tokenizer.pad_token_id

    def batch(self, index: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        longest = int(self.lengths[index].max())
        ids = torch.tensor([self.ids[i] + [self.pad] * (longest - len(self.ids[i])) for i in index])
        mask = torch.from_numpy(np.arange(longest)[None] < self.lengths[index][:, None]).long()
        return {"input_ids": ids, "attention_mask": mask}, self.labels[torch.from_numpy(index)]

    def by_length(self, size: int, rng: np.random.Generator | None = None) -> Iterator[Any]:
        """Batches of about equal lengths: of shuffled examples in a random order, or all sorted without `rng`."""
        order = np.arange(len(self.labels)) if rng is None else rng.permutation(len(self.labels))
        group = len(order) if rng is None else size * GROUP
        batches = []
        for start in range(0, len(order), group):
            part = order[start : start + group]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[i : i + size] for i in range(0, len(part), size)]
        for i in range(len(batches)) if rng is None else rng.permutation(len(batches)):
            yield self.batch(batches[i])


class LoraTrial(tune.Trainable):
    """A step is an epoch."""

    def setup(self, config: dict[str, Any], settings: Settings) -> None:
        torch.set_num_threads(1)
        self.settings = settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = AutoTokenizer.from_pretrained(model_folder())
        self.train_data, self.validation = Data("train", tokenizer), Data("validation", tokenizer)
        model = AutoModelForSequenceClassification.from_pretrained(model_folder(), num_labels=CLASSES)
        self.base = model.to(self.device)
        self.begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.base = self.model.unload()
        self.begin(new_config)
        return True

    def begin(self, config: dict[str, Any]) -> None:
        self.candidate = candidate_of(config)
        self.began, self.seconds, self.epoch = time.time(), 0.0, 0
        self.over = not 0 < self.candidate.params <= MOST_PARAMS
        if self.over:
            self.model = _Bare(self.base)
            return
        start = time.perf_counter()
        torch.manual_seed(self.settings.seed)
        with torch.no_grad():
            self.base.classifier.weight.normal_(0, self.base.config.initializer_range)
            self.base.classifier.bias.zero_()
        self.model = get_peft_model(self.base, lora_config(self.candidate)).to(self.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.candidate.learning_rate, fused=True)
        examples, group = len(self.train_data.labels), BATCH * GROUP
        steps = self.settings.epochs * sum(-(-min(group, examples - i) // BATCH) for i in range(0, examples, group))
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, int(0.06 * steps), steps)
        self.seconds += time.perf_counter() - start

    def step(self) -> dict[str, Any]:
        if self.over:
            return self.result(0.0, done=True)
        start = time.perf_counter()
        self.epoch += 1
        self.model.train(self.settings.dropout)
        for inputs, labels in self.train_data.by_length(BATCH, np.random.default_rng((self.settings.seed, self.epoch))):
            torch.nn.functional.cross_entropy(self.logits(inputs), labels.to(self.device)).backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad(set_to_none=True)
        score = self.accuracy()
        self.seconds += time.perf_counter() - start
        return self.result(score, done=self.epoch == self.settings.epochs)

    @torch.inference_mode()
    def accuracy(self) -> float:
        self.model.eval()
        batches = self.validation.by_length(4 * BATCH)
        right = sum(int((self.logits(inputs).argmax(-1).cpu() == labels).sum()) for inputs, labels in batches)
        return right / len(self.validation.labels)

    def logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            logits: torch.Tensor = self.model(**{k: v.to(self.device) for k, v in inputs.items()}).logits
        return logits.float()

    def result(self, score: float, done: bool) -> dict[str, Any]:
        known = {"score": score, "params": self.candidate.params, "seconds": self.seconds}
        return {**known, "began": self.began, "ended": time.time(), "worker": os.getpid(), "done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing is kept."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing is kept."""


class _Bare:
    """A model without LoRA, for a trial over the budget: it is not trained."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def unload(self) -> Any:
        return self._base


def box() -> dict[str, Any]:
    ranks = {f"rank_{i}": tune.choice(list(RANKS)) for i in range(LAYERS)}
    return {**ranks, "learning_rate": tune.loguniform(*LEARNING_RATES)}


def config_of(candidate: LoraRanks) -> dict[str, Any]:
    ranks = {f"rank_{i}": rank for i, rank in enumerate(candidate.ranks)}
    return {**ranks, "learning_rate": candidate.learning_rate}


def candidate_of(config: dict[str, Any]) -> LoraRanks:
    return LoraRanks(tuple(config[f"rank_{i}"] for i in range(LAYERS)), config["learning_rate"])


def run(given: Sequence[LoraRanks], trials: int, settings: Settings, workers: int, reuse: bool) -> list[dict[str, Any]]:
    search = OptunaSearch(
        metric=["score", "params"],
        mode=["max", "min"],
        points_to_evaluate=[config_of(c) for c in given] or None,
        seed=settings.seed,
        space=OptunaSearch.convert_search_space(box()),
    )
    gpus = torch.cuda.device_count() / workers
    with tempfile.TemporaryDirectory(prefix="fair-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(LoraTrial, settings=settings), {"cpu": 1, "gpu": gpus}),
            tune_config=tune.TuneConfig(
                search_alg=ConcurrencyLimiter(search, workers),
                num_samples=trials,
                reuse_actors=reuse,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0),
        )
        results = tuner.fit()
    if results.errors:
        raise SystemExit(f"{len(results.errors)} trials failed; the first: {results.errors[0]}")
    measured = ("score", "params", "seconds", "began", "ended", "worker")
    return [
        {"ranks": candidate_of(r.config).ranks, "learning_rate": r.config["learning_rate"]}
        | {name: r.metrics[name] for name in measured}
        for r in results
    ]


def span(trials: Sequence[dict[str, Any]]) -> float:
    return float(max(t["ended"] for t in trials) - min(t["began"] for t in trials))


def main(
    candidates: Annotated[Path | None, typer.Option(help="JSON list of ranks and learning rates to train.")] = None,
    search: Annotated[int, typer.Option(help="Trials of a search of its own, after the given ones.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Each has one core.")] = 2,
    reuse_actors: bool = True,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    seed: int = 0,
    dropout: Annotated[bool, typer.Option(help="The backbone's own, in training.")] = False,
    precision: Annotated[str, typer.Option(help="bf16 (autocast) or fp32")] = "bf16",
) -> None:
    """Train the given candidates, search, or both."""
    given = [LoraRanks.of(c) for c in json.loads(candidates.read_text())] if candidates else []
    if not given and not search:
        raise typer.BadParameter("give --candidates, --search, or both")
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    trials = run(given, len(given) + search, Settings(epochs, seed, dropout, precision), workers, reuse_actors)
    ray.shutdown()
    by_worker = [[t for t in trials if t["worker"] == worker] for worker in {t["worker"] for t in trials}]
    busy = sum(map(span, by_worker)) / workers
    print(json.dumps({"trials": trials, "span": span(trials), "busy": busy}))


if __name__ == "__main__":
    typer.run(main)
