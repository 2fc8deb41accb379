"""Tiny images with a class each, and tiny models of images on disk."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_families import MORE
from tiny_models import randomise
from transformers import AutoModel
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

CLASSES = ("dark", "light", "striped")


def save_image_model(folder: Path, family: str = "vit") -> Path:
    """A tiny random base model that takes images of 8 x 8 pixels, and the settings of its image processor."""
    randomise(AutoModel.from_config(MORE[family]()), 0).save_pretrained(folder)
    side = {"height": 8, "width": 8}
    if family == "vit":
        ViTImageProcessorPil(size=side).save_pretrained(folder)
    else:
        BitImageProcessorPil(size={"shortest_edge": 10}, crop_size=side).save_pretrained(folder)
    return folder


def image(kind: str, seed: int) -> Image.Image:
    """An image of that class, with noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (12, 14, 3))
    if kind == "light":
        pixels += 150
    if kind == "striped":
        pixels[:, ::4] += 160
        pixels[:, 1::4] += 160
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(kind: str, seed: int, format_: str = "PNG") -> bytes:
    """The same as bytes of a file."""
    to = io.BytesIO()
    image(kind, seed).save(to, format_)
    return to.getvalue()


def save_images(folder: Path, sizes: dict[str, int]) -> Path:
    """Folders of splits, with folders of classes, with so many images in all."""
    seed = 0
    for split, count in sizes.items():
        for i in range(count):
            own = folder / split / CLASSES[i % 3]
            own.mkdir(parents=True, exist_ok=True)
            seed += 1
            (own / f"{i}.png").write_bytes(encoded(CLASSES[i % 3], seed))
    return folder
