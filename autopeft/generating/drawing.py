"""Tokens that are drawn, so that what a candidate writes does not depend on who else is asked.

Shapes: K candidates, B prompts in a batch, V words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, TopPLogitsWarper

from autopeft.generating.settings import GenerationSettings


class Drawn(LogitsProcessor):
    """Adds Gumbel noise to scores [K*B, V], by which the likeliest token is one that is drawn (Gumbel 1954).

    The noise depends on the seed, the prompt's number and the step only, and is the same for all candidates.
    """

    def __init__(self, settings: GenerationSettings, prompts: Sequence[int], candidates: int, length: int) -> None:
        self._settings, self._prompts = settings, [int(i) for i in prompts]
        self._candidates, self._length = candidates, length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores after the temperature, top-p and noise."""
        step = input_ids.shape[1] - self._length
        scores = scores.float() / self._settings.temperature
        if self._settings.top_p < 1:
            scores = TopPLogitsWarper(self._settings.top_p)(input_ids, scores)
        noise = torch.stack([self._noise(prompt, step, scores.shape[1]) for prompt in self._prompts])
        return scores + noise.repeat(self._candidates, 1).to(scores.device)

    def _noise(self, prompt: int, step: int, words: int) -> torch.Tensor:
        digest = hashlib.blake2b(f"{self._settings.seed} {prompt} {step}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        return -torch.empty(words).exponential_(generator=generator).log()
