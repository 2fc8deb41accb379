"""What a model of images is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def noise_images(model: Any, count: int) -> torch.Tensor:
    """So many images of noise, [count, C, H, W] of the size that the configuration says, always the same."""
    import torch

    config = model.config
    size = int(config.image_size)
    shape = (count, int(getattr(config, "num_channels", 3)), size, size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(model.device, model.dtype)
