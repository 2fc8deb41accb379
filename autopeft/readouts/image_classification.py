"""One of several classes an image: cross entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from autopeft.errors import AutopeftError
from autopeft.readouts._base import Labelled
from autopeft.readouts.classification import Classification


@dataclass(frozen=True)
class ImageClassification(Classification):
    """One class an image, by the head of the model's own `...ForImageClassification`, which reads what it reads."""

    name: ClassVar[str] = "image_classification"
    describes: ClassVar[bool] = False
    description: ClassVar[str] = "one of several classes of images"
    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    # PEFT has no name for it.
    peft_task: ClassVar[str | None] = None
    # The heads of some families read all patches, and the layers of none have a place to cut others off.
    reads: ClassVar[Literal["one", "all"]] = "all"
    given: ClassVar[Literal["text", "image"]] = "image"

    @classmethod
    def of(cls, train: Labelled, names: tuple[str, ...] | None = None) -> Self:
        """The classes as the data declare them, else train's; `AutopeftError` for rows of texts."""
        if getattr(train, "pictures", None) is None:
            raise AutopeftError(f"{train.place}: readout '{cls.name}' is of images; take the task 'images'")
        return super().of(train, names)
