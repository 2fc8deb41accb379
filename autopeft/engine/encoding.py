"""Tasks as a model is given them: of texts or of images, as the readout says."""

from __future__ import annotations

from autopeft.engine.data import TokenizedTask
from autopeft.engine.images import ImageReader, read_images
from autopeft.models import ModelSource
from autopeft.readouts import Readout
from autopeft.tasks import TaskData


def encoded_task(data: TaskData, source: ModelSource, max_length: int) -> TokenizedTask:
    """A task ready for training; `max_length` is of texts. `AutopeftError` with the row of what cannot be taken."""
    if data.readout.given == "image":
        return read_images(data, source)
    return TokenizedTask.of(data, source.tokenizer(), max_length, source.limits())


def longest(source: ModelSource, readout: Readout, max_length: int) -> int:
    """The most tokens that an example has: `max_length` of texts; of images as many as the model makes of each."""
    return ImageReader(source, readout).tokens if readout.given == "image" else max_length
