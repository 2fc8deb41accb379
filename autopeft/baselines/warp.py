"""WARP: learned vectors around a text and at a [MASK], and class vectors. Hambardzumyan et al. 2021.

Shapes: B examples in a batch, T tokens of the longest, l learned vectors, d width, C outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn

from autopeft.anatomy import family_of, vocabulary_of
from autopeft.baselines._base import Baseline, Fitted
from autopeft.errors import AutopeftError, shown

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.settings import TrainingSettings
    from autopeft.models import ModelSource
    from autopeft.readouts import Readout


class _MaskedLM:
    """The head that the checkpoint was pretrained with, as `ModelSource.load` asks for one."""

    auto_class = "AutoModelForMaskedLM"

    def configuration(self) -> dict[str, Any]:
        """Nothing that the checkpoint has not."""
        return {}


class WarpedModel(nn.Module):
    """A frozen masked language model with learned vectors: `vectors` [l, d], `classes` [C, d] and `bias` [C].

    Half of the vectors stand before the text, the others behind it, and the first of those at the [MASK], whose output
    goes through the head's own transform to the class vectors. Attention looks both ways, so all of them are put behind
    the batch, and their positions say where they are.
    """

    def __init__(self, model: Any, mask_id: int, length: int, outputs: int, seed: int) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        decoder = model.get_output_embeddings()
        # What the words' vectors would be multiplied with.
        decoder.forward = lambda hidden: hidden
        table = vocabulary_of(model)
        assert table is not None, "the model is loaded"
        self.vectors = nn.Parameter(table[mask_id].float().repeat(length, 1))
        drawn = torch.randn(outputs, decoder.in_features, generator=torch.Generator().manual_seed(seed))
        self.classes = nn.Parameter(0.02 * drawn.to(table.device))
        self.bias = nn.Parameter(torch.zeros(outputs, device=table.device))
        self._first = (model.config.pad_token_id or 0) + 1 if family_of(model.config).counts_padding else 0

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **inputs: torch.Tensor
    ) -> SimpleNamespace:
        """`logits` [B, C] of texts that are padded on the right."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        texts = self.model.get_input_embeddings()(input_ids)
        own, before = self.vectors.to(texts.dtype).expand(len(texts), -1, -1), len(self.vectors) // 2
        if (types := inputs.get("token_type_ids")) is not None:
            inputs["token_type_ids"] = torch.cat([types, types[:, :1].expand(-1, own.shape[1])], dim=1)
        transformed = self.model(
            inputs_embeds=torch.cat([texts, own], dim=1),
            attention_mask=torch.cat([mask, mask.new_ones(own.shape[:2])], dim=1),
            position_ids=self._positions(mask, before),
            **inputs,
        ).logits
        at_mask = transformed[:, texts.shape[1] + before].float()
        return SimpleNamespace(logits=at_mask @ self.classes.T + self.bias)

    def _positions(self, mask: torch.Tensor, before: int) -> torch.Tensor:
        """[B, T + l]: the first token, the vectors before the text, the text, and those behind it."""
        text = mask.cumsum(1) - 1
        text = text + before * (text > 0)
        number = torch.arange(len(self.vectors), device=mask.device)
        # Behind: `number` already counts those before, and `text` is moved by as many.
        own = torch.where(number < before, number + 1, text[:, -1:] + 1 + number - before)
        return self._first + torch.cat([text, own.expand(len(text), -1)], dim=1)


@dataclass(frozen=True)
class WARP(Baseline):
    """`length` vectors, that of the [MASK] among them, all of which begin as the [MASK]'s own.

    No head is trained: class vectors stand in its place, and are counted. It needs a checkpoint with the head of masked
    language modelling.
    """

    name: ClassVar[str] = "warp"
    description: ClassVar[str] = "vectors around the text and at a [MASK], and class vectors (Hambardzumyan 2021)"
    paper: ClassVar[str] = "Hambardzumyan et al. 2021, section 3"
    family: ClassVar[str] = "additive"
    formula: ClassVar[str] = "l d + C (d + 1) a model"
    usual_rate: ClassVar[float] = 3e-3

    length: int = 20

    def fit(self, source: ModelSource, task: TokenizedTask, settings: TrainingSettings) -> Fitted:
        """Train the vectors; `AutopeftError` for a checkpoint without that head, or a task with labels of tokens."""
        from autopeft.baselines._training import train_model
        from autopeft.engine.worker import device

        readout = task.readout
        if readout.reads == "all":
            raise AutopeftError(f"{self.name}: has one [MASK] a text, but {readout.called} need one a token; take lst")
        mask_id = self._mask_id(source)
        self._check_positions(source, task)
        model = WarpedModel(self._load(source).to(device()), mask_id, self.length, readout.outputs, settings.seed)
        trained = train_model(model, task, settings)
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        model.requires_grad_(False)
        return Fitted(
            curve=trained.curve,
            model=model.eval(),
            trainable_params=count,
            kept_params=count,
            stored_bytes=4 * count,
            seconds_per_epoch=trained.seconds_per_epoch,
        )

    def _mask_id(self, source: ModelSource) -> int:
        if family_of(source.config()).causal:
            raise AutopeftError(f"{self.name}: model '{source.name}' reads from left to right, and knows no [MASK]")
        mask_id: int | None = source.tokenizer().mask_token_id
        if mask_id is None:
            raise AutopeftError(f"{self.name}: the tokenizer of '{source.name}' has no [MASK]; take another model")
        return mask_id

    def _check_positions(self, source: ModelSource, task: TokenizedTask) -> None:
        most = source.limits().tokens
        longest = max(int(split.lengths.max()) for split in (task.train, task.validation, task.test))
        if longest + self.length > most:
            raise AutopeftError(
                f"{self.name}: a text of {longest} tokens and {self.length} vectors need more than the {most} "
                f"positions of model '{source.name}'; set training.max_length to at most {most - self.length}"
            )

    def _load(self, source: ModelSource) -> Any:
        model, info = source.load(cast("Readout", _MaskedLM()), dtype=torch.float32)
        if missing := sorted(info["missing_keys"]):
            raise AutopeftError(
                f"{self.name}: the checkpoint of model '{source.name}' has no head of masked language modelling (no "
                f"{shown(missing[0])}); take one that has, such as bert-base-uncased"
            )
        return model
