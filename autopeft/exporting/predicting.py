"""What an exported adapter says of new texts, with neither the run nor the training data at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autopeft.doors import read_text
from autopeft.engine.batch import collate
from autopeft.engine.data import Tokens
from autopeft.engine.texts import Reader
from autopeft.errors import AutopeftError
from autopeft.exporting._record import Record
from autopeft.exporting.evaluation import load_export, source_of
from autopeft.formats import PairTokenizer, RowTokenizer, asking, with_template
from autopeft.generating.asking import Asking, Prompts
from autopeft.generating.settings import GenerationSettings
from autopeft.generating.writing import tokens_at_once, write
from autopeft.readouts._frozen_head import plain
from autopeft.recipe import FILE
from autopeft.tasks import Split, task_from

#: One text, or the two of a pair.
Text = str | tuple[str, str]
#: Of a chat template.
_MOST_CHARACTERS = 1_000_000


class Predictor:
    """An export on its base model, in memory; `model` is where that is now, if it was moved.

    `AutopeftError` for a folder that is not what an export writes, and for labels that are not of whole texts.
    """

    def __init__(self, folder: Path, trust_remote_code: bool = False, model: str | None = None) -> None:
        record = Record.read(folder)
        self._record, self._readout, self._where = record, record.kind, str(folder / FILE)
        if not self._readout.generates and not self._readout.describes:
            raise AutopeftError(
                f"{folder}: predictions are not made of {self._readout.called}; use 'autopeft evaluate'"
            )
        self._source = source_of(folder, record, trust_remote_code, model)
        self._tokenizer = self._source.tokenizer()
        self._most = record.settings_of(self._where).max_length
        self._template = _template(folder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        pad_id = int(self._tokenizer.pad_token_id or 0)
        self._pad_id, self._model = pad_id, load_export(folder, record, self._source, pad_id).to(self._device)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns of files that hold texts: the task's, or `text`."""
        if self._readout.generates:
            return ("text",)
        task = task_from(self._record.task, f"{self._where}: task")
        return tuple(task.for_file(self._readout, self._record.metrics_of_task)[0].labelled[0])

    def __call__(self, texts: Sequence[Text], max_new_tokens: int | None = None, batch: int = 32) -> Iterator[Any]:
        """Of each text, in order: `{"label", "probabilities"}` and the like (see `Readout.described`), or
        `{"text": what the model writes}`; of a chat model a text is the user's turn.

        An empty text has a label or a value as any other, which is what the model has learned of such; to an empty one
        nothing is written.
        """
        for start in range(0, len(texts), batch):
            chunk = texts[start : start + batch]
            if self._readout.generates:
                asked = [text for text in chunk if _said(text)]
                written = iter(self._written(asked, max_new_tokens) if asked else ())
                yield from ({"text": next(written) if _said(text) else ""} for text in chunk)
            else:
                yield from self._readout.described(self._outputs(chunk))

    @torch.inference_mode()
    def _outputs(self, texts: Sequence[Text]) -> np.ndarray:
        pairs = [(text, None) if isinstance(text, str) else text for text in texts]
        if any((b is None) != (len(self.columns) == 1) for _, b in pairs):
            raise AutopeftError(f"the adapter learned rows of {' and '.join(self.columns)}; give texts with as many")
        second = None if len(self.columns) == 1 else tuple(str(b) for _, b in pairs)
        split = Split(tuple(a for a, _ in pairs), second, (0,) * len(pairs))
        read = Reader(self._tokenizer, self._most, self._source.limits()).read("texts", split)
        tokens = Tokens.of(read, np.zeros(len(pairs), dtype=np.int64))
        given = collate(tokens, np.arange(len(pairs)), self._pad_id).to(self._device)
        found: np.ndarray = self._readout.forward(self._model, given.inputs).double().cpu().numpy()
        return found

    def _written(self, texts: Sequence[Text], max_new_tokens: int | None) -> list[str]:
        settings = self._settings(max_new_tokens)
        asking = self._asking([text if isinstance(text, str) else "\n".join(text) for text in texts], settings)
        tokens = tokens_at_once(plain(self._model).config, self._device)
        return write(self._model, asking, "texts", self._tokenizer, tokens)[0]

    def _settings(self, max_new_tokens: int | None) -> GenerationSettings:
        known = self._record.generation
        settings = GenerationSettings() if known is None else known.settings_of(self._where)
        return settings if max_new_tokens is None else settings.model_copy(update={"max_new_tokens": max_new_tokens})

    def _asking(self, texts: Sequence[str], settings: GenerationSettings) -> Asking:
        encoder = self._readout.encodes
        room, reader = self._reader(settings)
        how = self._record.asks or ("turns" if self._tokenizer.chat_template and not encoder else "text")
        system = self._record.task.get("system")
        ids: list[list[int]] = []
        stops: set[int] = set()
        for text in texts:
            question = reader.question(asking(text, how, str(system) if system else None))
            if question is None:
                raise AutopeftError("the chat template writes nothing that asks; the adapter cannot be asked with it")
            ids.append(question.ids)
            stops |= set() if question.stop is None else {question.stop}
        prompts = Prompts.of(ids, [("",)] * len(ids), len(ids))
        start = reader.start if isinstance(reader, PairTokenizer) else None
        return Asking(settings, {"texts": prompts}, room, tuple(sorted(stops)), encoder, start)

    def _reader(self, settings: GenerationSettings) -> tuple[int, RowTokenizer | PairTokenizer]:
        """How many tokens a prompt may have, as in training, and what makes them of it."""
        limits, encoder, known = self._source.limits(), self._readout.encodes, self._record.generation
        slots = self._record.value(self._where).input_tokens
        left = (limits.prompted if slots else limits.tokens) - slots - (0 if encoder else settings.max_new_tokens)
        if left < 1 or (encoder and settings.max_new_tokens >= limits.tokens):
            raise AutopeftError(f"{settings.max_new_tokens:,} new tokens are more than the model has positions for")
        room = left if known is None else min(left, known.room)
        if encoder:
            return room, PairTokenizer(self._tokenizer, room, limits.start)
        turns = self._record.asks in ("turns", None)
        return room, RowTokenizer(with_template(self._tokenizer, self._template if turns else None), room)


def _said(text: Text) -> bool:
    """Whether a text says anything."""
    return bool((text if isinstance(text, str) else "".join(text)).strip())


def _template(folder: Path) -> str | None:
    """The chat template beside an adapter, which transformers runs in a sandbox."""
    path = folder / "chat_template.jinja"
    return read_text(path, most=_MOST_CHARACTERS) if path.is_file() else None
