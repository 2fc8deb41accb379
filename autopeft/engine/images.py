"""Images as a model is given them: brought to its size once, kept as bytes in a file, floats a batch at a time.

Shapes: N images of a split, B of them in a batch, C channels, H and W pixels.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autopeft.anatomy import embeddings_of, without_weights
from autopeft.doors import door
from autopeft.engine.data import TokenizedTask, Tokens
from autopeft.errors import AutopeftError
from autopeft.models import ModelSource
from autopeft.readouts import Readout
from autopeft.resources import cache_folder
from autopeft.tasks import Split, TaskData
from autopeft.writing import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pixels of an image before it is made smaller: bytes of a few may stand for any number.
MOST_PIXELS = 2**26
#: Pixels of a side that a model may ask for.
_MOST_SIDE = 4_096
#: What is opened. Others run programs (EPS), or are no images of the world.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
#: Images that are decoded at the same time, and that wait for it.
_THREADS, _WAITING = 4, 8
#: Of an image's sides, and of what a processor resizes to and then cuts out.
_MOST_RATIO, _MOST_CROPPED = 50, 10
_MODES = {1: "L", 3: "RGB"}
#: Of the files; raise it when the same key would give other pixels.
_FORMAT = 1
_REMEDY = "set AUTOPEFT_CACHE to a folder with room that all workers see"


@dataclass(frozen=True)
class Pixels:
    """Images of a split in a file that is mapped into memory, uint8 [N, C, H, W].

    A model is given `scale` times them plus `shift`, numbers a channel. Copies in other processes open the file anew.
    """

    file: Path
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    @cached_property
    def stored(self) -> np.ndarray:
        """The bytes; `AutopeftError` where the file is not there."""
        with door(self.file, "images cannot be read", _REMEDY):
            found: np.ndarray = np.load(self.file, mmap_mode="r", allow_pickle=False)
        return found

    def floats(self, index: np.ndarray) -> torch.Tensor:
        """The images at `index` [B, C, H, W] in fp32, as the model is given them."""
        chosen = torch.from_numpy(self.stored[index]).float()
        scale, shift = (torch.tensor(x, dtype=torch.float32).view(-1, 1, 1) for x in (self.scale, self.shift))
        return chosen.mul_(scale).add_(shift)

    def __reduce__(self) -> tuple[Any, ...]:
        return Pixels, (self.file, self.scale, self.shift)


@dataclass(frozen=True)
class Images(Tokens):
    """One split of images, as many tokens each; `which` [N] are their places in the file."""

    pixels: Pixels = field(kw_only=True)
    which: np.ndarray = field(kw_only=True)

    def inputs(self, index: np.ndarray, filled: np.ndarray, rows: np.ndarray, pad_id: int) -> dict[str, torch.Tensor]:
        """The pixels; nothing is padded."""
        return {"pixel_values": self.pixels.floats(self.which[index])}

    def take(self, index: np.ndarray) -> Images:
        """The images at `index` alone, in that order."""
        offsets = self.offsets[: len(index) + 1]
        return replace(self, offsets=offsets, labels=self.labels[index], which=self.which[index])


class ImageReader:
    """Brings images to the size that a model wants, by the settings of its own image processor.

    `tokens`: how many tokens the model makes of each, [CLS] and the like among them. `AutopeftError` for a model
    without settings, or with some that do not fit it.
    """

    def __init__(self, source: ModelSource, readout: Readout) -> None:
        self._source, self._readout = source, readout
        self._processor: Any = processor_of(source)
        self._place = f"model '{source.name}': its image processor"
        self._config = source.config(**readout.configuration())
        channels = int(getattr(self._config, "num_channels", 3))
        if channels not in _MODES:
            raise AutopeftError(f"model '{source.name}': takes images of {channels} channels, which no file has")
        self._mode = _MODES[channels]
        for name in ("size", "crop_size"):
            sides = dict(getattr(self._processor, name, None) or {}).values()
            if any(side and side > _MOST_SIDE for side in sides):
                raise AutopeftError(f"{self._place}: {name} has sides of more than {_MOST_SIDE:,} pixels; mend it")

        cropped = getattr(self._processor, "crop_pct", None)
        if cropped is not None and not 1 / _MOST_CROPPED <= cropped <= 1:
            raise AutopeftError(f"{self._place}: crop_pct is {cropped}, not from 0.1 to 1; mend it")

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """[C, H, W] of each image."""
        from PIL import Image

        return self.fitted(Image.new(self._mode, (96, 64))).shape

    @cached_property
    def tokens(self) -> int:
        """Tokens of each image, counted without weights."""
        model = without_weights(self._config, self._source.trust_remote_code, self._readout.auto_class)
        with door(self._place, f"makes images of {list(self.shape)}, which the model cannot take", "mend its size"):
            found = embeddings_of(model)(torch.zeros((1, *self.shape), device="meta"))
        return int(found.shape[1])

    def read(self, name: str, split: Split) -> Pixels:
        """The images of a split, decoded unless that was done before; `AutopeftError` with the row of a broken one."""
        settings = {"processor": self._processor.to_dict(), "mode": self._mode, "format": _FORMAT}
        told = json.dumps([settings, split.first], sort_keys=True, default=str)
        key = hashlib.sha256(told.encode()).hexdigest()[:24]
        with door("the folder for images", "is not known", _REMEDY):
            file = cache_folder() / f"images-{key}.npy"
        if not self._kept(file, len(split)):
            self._write(file, name, split)
        scale, shift = self._normalisation()
        return Pixels(file, scale, shift)

    def fitted(self, image: Image) -> np.ndarray:
        """An image as uint8 [C, H, W]; `AutopeftError` for a processor that gives something else."""
        with door(self._place, "cannot make images smaller"):
            made = self._processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        found = np.asarray(made)
        if found.dtype != np.uint8 or found.ndim != 3 or found.shape[0] not in _MODES:
            raise AutopeftError(f"{self._place}: gives {found.dtype} {list(found.shape)}, and no images of bytes")
        return found

    def decoded(self, data: bytes, where: str) -> np.ndarray:
        """An encoded image the same way, upright; `AutopeftError`, starting with `where`, for what is none."""
        from PIL import Image, ImageOps

        broken = door(where, "cannot be read as an image", "mend it, or leave it out")
        with broken, Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            wide, high = opened.size
            if max(wide, high) > _MOST_RATIO * min(wide, high):
                # Resized by its short side it would become huge.
                raise AutopeftError(
                    f"{where}: an image of {wide:,} x {high:,} pixels is too narrow; cut it, or leave it out"
                )
            if wide * high > MOST_PIXELS:
                raise AutopeftError(
                    f"{where}: an image of {wide:,} x {high:,} pixels is too large ({MOST_PIXELS:,} at most); "
                    "make it smaller, or leave it out"
                )
            image = ImageOps.exif_transpose(opened).convert(self._mode)
        found = self.fitted(image)
        if found.shape != self.shape:
            raise AutopeftError(
                f"{where}: becomes {list(found.shape)}, and others {list(self.shape)}; give the model's image "
                "processor a size of its own (do_resize, do_center_crop)"
            )
        return found

    def _kept(self, file: Path, count: int) -> bool:
        """Whether a file holds so many images of this shape."""
        try:
            there = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        return bool(there.dtype == np.uint8 and there.shape == (count, *self.shape))

    def _write(self, file: Path, name: str, split: Split) -> None:
        """Decode all into the file, which is there whole or not at all."""
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(split), *self.shape)}
        with door(file, "images cannot be kept", _REMEDY):
            file.parent.mkdir(parents=True, exist_ok=True)
            # Not through a mapping: a full disk would kill the process.
            with replacing(file) as partial, partial.open("wb") as to:
                np.lib.format.write_array_header_1_0(to, header)
                for pixels in self._all(name, split):
                    to.write(np.ascontiguousarray(pixels).tobytes())

    def _all(self, name: str, split: Split) -> Iterator[np.ndarray]:
        assert split.pictures is not None, "a readout of images has looked"
        numbers = iter(range(len(split)))
        with ThreadPoolExecutor(_THREADS) as threads:
            while some := list(itertools.islice(numbers, _WAITING)):
                places = [_where(name, split, i) for i in some]
                encoded = [split.pictures[i].read() for i in some]
                yield from threads.map(self.decoded, encoded, places)

    def _normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Scale and shift of each channel."""
        own, channels = self._processor, self.shape[0]
        factor = float(own.rescale_factor) if own.do_rescale else 1.0
        with door(self._place, "image_mean and image_std are no numbers a channel"):
            mean, std = (own.image_mean, own.image_std) if own.do_normalize else (0.0, 1.0)
            means, stds = (np.broadcast_to(np.asarray(x, dtype=np.float64), (channels,)) for x in (mean, std))
            if not (np.isfinite(means).all() and np.isfinite(stds).all() and stds.all()):
                raise ValueError(f"{list(means)}, {list(stds)}")
        return tuple((factor / stds).tolist()), tuple((-means / stds).tolist())


def processor_of(source: ModelSource) -> Any:
    """The settings of a model's image processor, which Pillow follows."""
    from transformers import AutoImageProcessor

    with source._opened("its image processor ") as options:
        return AutoImageProcessor.from_pretrained(source._where, backend="pil", **options)


def read_images(data: TaskData, source: ModelSource) -> TokenizedTask:
    """A task of images ready for training."""
    reader = ImageReader(source, data.readout)
    splits: dict[str, Any] = {name: _images(reader, name, data) for name in ("train", "validation", "test")}
    return TokenizedTask(data.name, **splits, readout=data.readout, metrics=tuple(data.metrics), pad_id=0)


def _images(reader: ImageReader, name: str, data: TaskData) -> Images:
    split: Split = getattr(data, name)
    places = np.arange(len(split) + 1, dtype=np.int64)
    pixels = reader.read(name, split)
    none, labels = np.zeros(0, dtype=np.int32), data.readout.array(split.labels)
    return Images(none, None, places * reader.tokens, labels, pixels=pixels, which=places[:-1])


def _where(name: str, split: Split, i: int) -> str:
    own = split.pictures[i].name if split.pictures else ""
    return (split.at(i) or f"{name}, image {i + 1} of {len(split):,}") + (f" ({own})" if own else "")
