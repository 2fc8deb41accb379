"""What an export has to know of a task, kept in the run folder: the data may be moved away after a search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationError

from autopeft.config import Strict
from autopeft.errors import AutopeftError
from autopeft.formats import Asks, Conversation, asks_of, with_template
from autopeft.generating.settings import Generation
from autopeft.readouts import Readout, implied, readout_from, stated
from autopeft.run_folder import write_whole

if TYPE_CHECKING:
    from autopeft.session import Session

_FILE = "task.json"


class TaskFacts(Strict):
    """Classes, metrics (main one first), splits and remarks of a loaded task, under its data's fingerprint."""

    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    positive: int | None = None
    kind: dict[str, Any] | None = Field(None, description="the readout, where labels and positive don't imply it")
    chat: str | None = Field(None, description="the chat template that turns were written with")
    asks: Asks | None = Field(None, description="how rows of a language model ask")
    splits: str
    remarks: tuple[str, ...]
    fingerprint: str
    generation: Generation | None = Field(None, description="how texts were written and measured on test")

    @classmethod
    def of(cls, session: Session) -> Self:
        """Those of a session."""
        data = session.data
        return cls(
            labels=data.label_names, metrics=data.metrics,
            positive=getattr(data.readout, "positive", None), kind=stated(data.readout), splits=data.note,
            remarks=session.remarks, fingerprint=data.fingerprint, chat=_chat(session), generation=_generation(session),
            asks=_asks(session),
        )  # fmt: skip

    @property
    def readout(self) -> Readout:
        """What the labels are."""
        return readout_from(self.kind) if self.kind else implied(self.labels, self.positive)

    def keep(self, run: Path) -> None:
        """Write them into a run folder."""
        write_whole(run / _FILE, self.model_dump_json(indent=2, exclude_none=True) + "\n")

    @classmethod
    def kept(cls, run: Path, fingerprint: str | None) -> Self | None:
        """Those in a run folder; None where there are none of data with that fingerprint (None: of any)."""
        from autopeft.doors import read_text

        try:
            facts = cls.model_validate_json(read_text(run / _FILE))
        except (AutopeftError, ValidationError):
            return None
        return facts if fingerprint in (None, facts.fingerprint) and facts.metrics else None


def _asks(session: Session) -> Asks | None:
    data = session.data
    if not data.readout.tokenises:
        return None
    return asks_of(Conversation.from_json(data.train.first[0]))


def _generation(session: Session) -> Generation | None:
    asking = session.tokens.asking
    if asking is None:
        return None
    settings = asking.settings.model_dump(mode="json")
    return Generation(settings=settings, way=asking.described(), room=asking.room, signatures=asking.signatures())


def _chat(session: Session) -> str | None:
    data = session.data
    if not data.readout.tokenises or data.readout.encodes or not Conversation.from_json(data.train.first[0]).turns:
        return None
    return str(with_template(session.source.tokenizer(), data.template).chat_template)
