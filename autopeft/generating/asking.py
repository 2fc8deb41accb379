"""The prompts of a task's splits, and the answers that what is written is compared with.

Shapes: N prompts of a split, T tokens of them without padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

import numpy as np

from autopeft.doors import within
from autopeft.errors import AutopeftError
from autopeft.formats import Conversation, PairTokenizer, RowTokenizer, with_template
from autopeft.generating.settings import GenerationSettings
from autopeft.metrics import text_metric
from autopeft.tasks import Split, TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompts:
    """Prompts of a split: `ids` [T] end to end, prompt i is `offsets[i]:offsets[i + 1]`, and has `answers[i]`.

    `distinct`: how many the split has in all. `cut`: of how many the beginning is lost.
    """

    ids: np.ndarray
    offsets: np.ndarray
    answers: tuple[tuple[str, ...], ...]
    distinct: int
    cut: int = 0

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], answers: Sequence[tuple[str, ...]], distinct: int, cut: int = 0) -> Self:
        """Prompts of these token ids, one after another."""
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in ids])])
        flat = np.fromiter((i for one in ids for i in one), dtype=np.int64)
        return cls(flat, offsets, tuple(answers), distinct, cut)

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, i: int) -> np.ndarray:
        """The token ids of one."""
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each, [N]."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Asking:
    """What models are asked, by split, in `room` tokens at most, and how they answer.

    `stops` are the tokens that end an answer, beside the model's own. `encoder`: prompts are read by an encoder, and
    answers written by a decoder, which begins with `start`.
    """

    settings: GenerationSettings
    prompts: Mapping[str, Prompts]
    room: int
    stops: tuple[int, ...]
    encoder: bool = False
    start: int | None = None

    @classmethod
    def of(
        cls,
        settings: GenerationSettings,
        data: TaskData,
        tokenizer: PreTrainedTokenizerBase,
        room: int,
        encoder: bool = False,
        splits: Sequence[str] = ("test",),
        start: int | None = None,
    ) -> Self:
        """Of the rows of a task: each distinct beginning is a prompt, and what rows say after it are its answers.

        At most `settings.limit` prompts of a split are taken, evenly spaced, and of each at most `room` tokens, the
        last ones, as the assistant's header stands there. `AutopeftError` where a split has none, or a metric cannot
        be of its answers.
        """
        where = f"task {data.name}: generation"
        if room < 1:
            raise AutopeftError(
                f"{where}: {settings.max_new_tokens} tokens (max_new_tokens) leave no position of the model for a "
                "prompt; lower it"
            )
        if encoder:
            pairs = PairTokenizer(tokenizer, room, start)
            start, reader = pairs.start, cast("RowTokenizer | PairTokenizer", pairs)
        else:
            reader = RowTokenizer(with_template(tokenizer, data.template), room)
        found: dict[str, Prompts] = {}
        stops: set[int] = set()
        for name in splits:
            with within(f"{where}: {name}"):
                found[name], ends = _prompts(getattr(data, name), reader, settings)
            stops |= ends
        return cls(settings, found, room, tuple(sorted(stops)), encoder, start)

    def signatures(self) -> dict[str, str]:
        """How metrics are computed on test, by name; those that say all by their names are left out."""
        answers = self.prompts["test"].answers
        found = {name: text_metric(name)().signature(answers) for name in self.settings.metrics}
        return {name: text for name, text in found.items() if text}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of the prompts, a sentence each."""
        cut = {name: own for name, own in self.prompts.items() if own.cut}
        return tuple(
            f"{own.cut:,} of {len(own):,} prompts of {name} are too long for the model, and lose their beginning"
            for name, own in cut.items()
        )

    def described(self) -> str:
        """How texts are written on test, in words."""
        own, settings = self.prompts["test"], self.settings
        of = "" if len(own) == own.distinct else f" of {own.distinct:,}"
        return f"{len(own):,}{of} prompts of test, {settings.way}, at most {settings.max_new_tokens:,} new tokens"


def _prompts(
    split: Split, reader: RowTokenizer | PairTokenizer, settings: GenerationSettings
) -> tuple[Prompts, set[int]]:
    """Those of a split, and the tokens that end their answers."""
    answers: dict[Conversation, dict[str, None]] = {}
    first: dict[Conversation, int] = {}
    for i, text in enumerate(split.first):
        asked = Conversation.from_json(text).asked
        if asked is not None:
            beginning = Conversation(asked.turns[:-1], asked.parts[:-1])
            answers.setdefault(beginning, {})[asked.answer.strip()] = None
            first.setdefault(beginning, i)
    chosen = list(first.items())
    if not chosen:
        raise AutopeftError("no row has a prompt before what is scored; leave generation out, or choose what is scored")
    places = np.linspace(0, len(chosen) - 1, min(settings.limit, len(chosen))).round().astype(int)
    ids, own, cut = [], [], 0
    stops: set[int] = set()
    for beginning, i in (chosen[place] for place in places):
        with within(split.at(i) or f"text {i + 1} of {len(split):,}"):
            asked = Conversation.from_json(split.first[i]).asked
            question = None if asked is None else reader.question(asked)
        if question is None:
            continue
        cut += question.cut > 0
        ids.append(question.ids)
        own.append(tuple(answers[beginning]))
        if question.stop is not None:
            stops.add(question.stop)
    if not own:
        raise AutopeftError("the chat template writes no header to ask with; give another in task.template")
    wrong = ((name, text_metric(name)().complaint(own)) for name in settings.metrics)
    for name, complaint in filter(lambda found: found[1], wrong):
        raise AutopeftError(f"{complaint}, so metric '{name}' says nothing; leave it out")
    return Prompts.of(ids, own, len(chosen), cut), stops
