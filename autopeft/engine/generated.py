"""Metrics of the texts that trained candidates write, several candidates in one pack."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from autopeft.candidate import Candidate, Evaluation, Job
from autopeft.engine.backbone import Backbone
from autopeft.engine.company import companies
from autopeft.engine.data import TokenizedTask
from autopeft.engine.encoding import encoded_task
from autopeft.engine.kept import load_weights
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.generating.asking import Asking
from autopeft.generating.settings import GenerationSettings
from autopeft.generating.writing import compared, tokens_at_once, write
from autopeft.models import ModelSource
from autopeft.tasks import TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Candidates that write together.
_AT_ONCE = 8

#: A candidate, and what gives its trained weights.
Member = tuple[Candidate, Callable[[], Mapping[str, torch.Tensor]]]


def tokenized(
    data: TaskData,
    source: ModelSource,
    longest: int,
    settings: GenerationSettings | None = None,
    slots: int = 0,
    room: int | None = None,
) -> TokenizedTask:
    """A task for a model, texts cut at `longest` tokens; with `settings`, what models are asked on test (and on
    validation, where that is wanted of each candidate).

    A prompt has at most `room` tokens. None: as many as a text, or what the model's positions leave, as what is written
    takes some of these, and so do `slots`, the vectors that methods put among a text's.
    """
    task = encoded_task(data, source, longest)
    if settings is None:
        return task
    tokenizer, limits = source.tokenizer(), source.limits()
    encoder = bool(getattr(source.config(), "is_encoder_decoder", False))
    if room is None:
        taken = 0 if encoder else slots + settings.max_new_tokens
        room = min(longest, (limits.prompted if slots else limits.tokens) - taken)
    splits = ("test",) if settings.when == "front" else ("validation", "test")
    if encoder and settings.max_new_tokens >= limits.tokens:
        # What is written has the decoder's positions.
        room = 0
    asking = Asking.of(settings, data, tokenizer, room, encoder, splits, limits.start)
    return replace(task, asking=asking, remarks=(*task.remarks, *asking.remarks))


class Writers:
    """Has trained candidates write what a task asks, on one backbone."""

    def __init__(
        self,
        backbone: Backbone,
        task: TokenizedTask,
        settings: TrainingSettings,
        tokenizer: Callable[[], PreTrainedTokenizerBase],
    ) -> None:
        self._backbone, self._tokenizer = backbone, tokenizer
        self.asking = task.asking
        # It trains nothing, so no layer is to be computed again.
        self._settings = settings.model_copy(update={"checkpoint": False})

    def metrics(self, members: Sequence[Member], split: str) -> list[dict[str, float]]:
        """The metrics of each one's texts on a split, by their own names.

        Empty, with a warning, for one that cannot write, and for all where the task asks nothing on that split.
        """
        found: list[dict[str, float]] = [{} for _ in members]
        if self.asking is None or split not in self.asking.prompts:
            return found
        for together in companies({i: candidate.hybrid for i, (candidate, _) in enumerate(members)}):
            for start in range(0, len(together), _AT_ONCE):
                self._attempt(members, together[start : start + _AT_ONCE], split, found)
        return found

    def kept(self, folder: Path, job: Job) -> Member:
        """A job's candidate with the weights that its training left in a folder."""
        name = self._settings.weights_name(job)
        return job.candidate, lambda: load_weights(folder, name) or {}

    def texts(self, members: Sequence[Member], split: str) -> list[list[str]]:
        """What each of one company writes after each prompt of a split."""
        backbone, asking = self._backbone, self.asking
        if asking is None:
            raise ValueError("the task asks nothing")
        tokens = tokens_at_once(backbone.model.config, backbone.device, backbone.dtype.itemsize)
        with Pack(backbone, [candidate for candidate, _ in members], self._settings) as pack:
            for k, (_, weights) in enumerate(members):
                pack.load(k, weights())
            pack.procedures.call("before_measure")
            return write(backbone.model, asking, split, self._tokenizer(), tokens, len(members))

    def _attempt(
        self, members: Sequence[Member], numbers: Sequence[int], split: str, found: list[dict[str, float]]
    ) -> None:
        """Put their metrics in their places; in halves after an error, as memory may suffice for fewer."""
        try:
            texts = self.texts([members[i] for i in numbers], split)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        else:
            for i, own in zip(numbers, texts, strict=True):
                found[i] = {} if self.asking is None else compared(self.asking, split, own)
            return
        if self._backbone.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(numbers) == 1:
            key = members[numbers[0]][0].key
            warnings.warn(f"candidate {key} has written no texts that can be measured ({reason})", stacklevel=2)
            return
        for half in (numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]):
            self._attempt(members, half, split, found)


def add_texts(
    writers: Writers, keep: Path | None, members: Mapping[int, Job], evaluations: dict[int, Evaluation]
) -> None:
    """Add to evaluations of trainings that came to their end what their texts on validation are worth.

    Where the task asks for that after the last epoch, and weights are kept (in the folder `keep`).
    """
    asking = writers.asking
    if asking is None or keep is None or asking.settings.when != "last_epoch":
        return
    done = [i for i in members if i in evaluations and evaluations[i].status == "done"]
    found = writers.metrics([writers.kept(keep, members[i]) for i in done], "validation")
    for i, metrics in zip(done, found, strict=True):
        evaluations[i] = replace(evaluations[i], metrics={**evaluations[i].metrics, **metrics})


def with_texts_on_test(
    writers: Writers, keep: Path | None, jobs: Sequence[Job], scores: Sequence[dict[str, float]]
) -> list[dict[str, float]]:
    """Test scores of jobs whose weights are kept, with `test_<metric>` of what they write; none stays none."""
    there = [] if keep is None else [i for i, own in enumerate(scores) if own]
    found = writers.metrics([writers.kept(keep, jobs[i]) for i in there if keep is not None], "test")
    texts = {i: on_test(metrics) for i, metrics in zip(there, found, strict=True)}
    return [{**own, **texts.get(i, {})} for i, own in enumerate(scores)]


def on_test(metrics: Mapping[str, float]) -> dict[str, float]:
    """The same under the names that they have on test."""
    return {f"test_{name}": value for name, value in metrics.items()}
