"""Laplace's approximation around a trained adapter, for calibrated probabilities. Yang and others 2023 (Laplace-LoRA).

Shapes: N examples, C classes, D inputs of the head's last map (and one for its bias), P = C D weights of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from autopeft.after._base import AfterTraining
from autopeft.after._calibration import Calibration
from autopeft.anatomy import family_of
from autopeft.engine.data import TokenizedTask, Tokens, evaluation_batches
from autopeft.engine.train import evaluation_tokens
from autopeft.errors import AutopeftError
from autopeft.exporting.evaluation import open_export

#: Weights of the head's last map up to which the whole matrix of curvature is kept: 8,000 take half a GB in fp64.
_MOST = 8_000
#: Prior precisions that are tried.
_PRECISIONS = torch.logspace(-4, 4, 49, dtype=torch.double)
#: Numbers in what is computed at a time.
_AT_ONCE = 2**24


class LaplaceLoRA(AfterTraining):
    """The record; `laplace` does it."""

    name: ClassVar[str] = "laplace"
    description: ClassVar[str] = "calibrated probabilities from the curvature at the trained weights (Yang 2023)"
    paper: ClassVar[str] = "Yang et al. 2023; Daxberger et al. 2021"
    family: ClassVar[str] = "reparameterised"
    formula: ClassVar[str] = "none"
    function: ClassVar[str] = "autopeft.after.laplace.laplace"


@dataclass(frozen=True)
class Posterior:
    """A Gaussian over the weights of the head's last map: eigenvectors [P, P] and eigenvalues [P] of the curvature.

    `model` is the adapter on its base model, unchanged; its outputs are the means of the logits.
    """

    model: nn.Module
    vectors: torch.Tensor
    values: torch.Tensor
    prior_precision: float
    pad_id: int

    @torch.no_grad()
    def probabilities(self, **inputs: torch.Tensor) -> torch.Tensor:
        """[B, C] by the probit approximation: softmax(f / sqrt(1 + pi v / 8)), f and v the logits' mean and variance.

        MacKay 1992; Lu, Ie and Sha 2020 for more than two classes.
        """
        features, logits = _features(self.model, inputs)
        return probit(logits, self.variances(features, torch.tensor([self.prior_precision]))[..., 0])

    def variances(self, features: torch.Tensor, precisions: torch.Tensor) -> torch.Tensor:
        """Of each logit, [B, C, G], for G prior precisions, from features [B, D]."""
        wide = features.shape[1]
        vectors = self.vectors.view(-1, wide, len(self.values))
        weights = 1 / (self.values[:, None] + precisions.double())
        step = max(1, _AT_ONCE * wide // self.vectors.numel())
        parts = [torch.einsum("nd,cdp->ncp", part, vectors).square() @ weights for part in features.split(step)]
        return torch.cat(parts)


@dataclass(frozen=True)
class Calibrated:
    """The posterior, and what it does on the test split; `kept` is the share of predictions that stay as they were."""

    posterior: Posterior
    before: Calibration
    after: Calibration
    kept: float


def laplace(
    folder: Path | str,
    choose: Literal["validation", "marginal_likelihood"] = "validation",
    trust_remote_code: bool = False,
) -> Calibrated:
    """Fit the last layer's posterior of an exported adapter on its training split, and measure it on its test split.

    The posterior is N(w, (H + t I)^-1), with the generalised Gauss-Newton matrix H = sum_n (diag(p) - p p') x phi phi'
    (Kronecker product, p the probabilities, phi the inputs of the last map) and a prior precision t. `choose` says what
    t maximises: the likelihood of the validation labels with the weights integrated out, or Laplace's evidence of the
    training split, log p(D | w) - t |w|^2 / 2 - sum_i log(1 + h_i / t) / 2, h_i the eigenvalues of H.

    `AutopeftError` for a folder that is no export, for labels that are not one class a text, and where the head's last
    map has too many weights.
    """
    opened = open_export(Path(folder), trust_remote_code=trust_remote_code)
    return calibrate(opened.model, opened.task, choose, str(folder))


def calibrate(model: nn.Module, task: TokenizedTask, choose: str = "validation", where: str = "model") -> Calibrated:
    """The same of a model in memory, with `logits` [B, C] in its outputs."""
    last = _last_map(model)
    if task.readout.scored_as != "classes" or task.readout.of_task or last.out_features < 2:
        raise AutopeftError(f"{where}: only classes can be calibrated, and the adapter's outputs are something else")
    size = last.out_features * (last.in_features + (last.bias is not None))
    if size > _MOST:
        raise AutopeftError(
            f"{where}: the head's last map has {size:,} weights, and the curvature of at most {_MOST:,} is computed; "
            "use laplace-torch with a Kronecker-factored last layer on the loaded adapter"
        )
    features, logits, labels = _of_split(model, task, task.train)
    values, vectors = torch.linalg.eigh(curvature(features, logits.softmax(1)))
    posterior = Posterior(model, vectors, values.clamp_min(0), 1.0, task.pad_id)
    if choose == "validation":
        scores = _validation_likelihoods(posterior, *_of_split(model, task, task.validation))
    else:
        scores = _evidences(posterior, last, logits, labels)
    best = float(_PRECISIONS[int(scores.argmax())])
    posterior = Posterior(model, vectors, posterior.values, best, task.pad_id)
    features, logits, labels = _of_split(model, task, task.test)
    plain = logits.softmax(1)
    softer = probit(logits, posterior.variances(features, torch.tensor([best]))[..., 0])
    kept = float((plain.argmax(1) == softer.argmax(1)).double().mean())
    return Calibrated(posterior, Calibration.of(plain, labels), Calibration.of(softer, labels), kept)


def curvature(features: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """The generalised Gauss-Newton matrix [P, P] of cross entropy, weights in the order [C, D]."""
    classes, wide = probabilities.shape[1], features.shape[1]
    found = features.new_empty(classes, wide, classes, wide)
    for c in range(classes):
        for other in range(c, classes):
            weights = probabilities[:, c] * (float(c == other) - probabilities[:, other])
            found[c, :, other] = found[other, :, c] = features.T @ (weights[:, None] * features)
    return found.view(classes * wide, classes * wide)


def probit(logits: torch.Tensor, variances: torch.Tensor) -> torch.Tensor:
    """Probabilities [B, C] of logits with these means and variances [B, C]."""
    return (logits / (1 + torch.pi / 8 * variances).sqrt()).softmax(1)


def _validation_likelihoods(
    posterior: Posterior, features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    variances = posterior.variances(features, _PRECISIONS)
    own = [probit(logits, v).gather(1, labels[:, None]).clamp_min(1e-12).log().sum() for v in variances.unbind(-1)]
    return torch.stack(own)


def _evidences(posterior: Posterior, last: nn.Linear, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    likelihood = -nn.functional.cross_entropy(logits, labels, reduction="sum")
    norm = sum(p.detach().double().square().sum() for p in last.parameters())
    spread = torch.log1p(posterior.values[:, None] / _PRECISIONS).sum(0)
    return likelihood - _PRECISIONS * norm / 2 - spread / 2


def _of_split(model: nn.Module, task: TokenizedTask, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [N, D], logits [N, C] (fp64, on the CPU) and labels [N] of a split."""
    device = next(model.parameters()).device
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for batch in evaluation_batches(tokens, evaluation_tokens(device), task.pad_id):
        batch = batch.to(device)
        found.append((*_features(model, batch.inputs), batch.labels.cpu()))
    features, logits, labels = (torch.cat(part) for part in zip(*found, strict=True))
    return features, logits, labels


@torch.no_grad()
def _features(model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs of the head's last map [B, D] (with a one for its bias), and the logits it makes of them."""
    last, seen = _last_map(model), list[torch.Tensor]()
    handle: Any = last.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        logits = model(**inputs).logits
    finally:
        handle.remove()
    features = seen[0]
    if features.dim() == 3:
        # Causal models' heads see all tokens; the last real one counts.
        at = inputs["attention_mask"].sum(1) - 1
        features = features[torch.arange(len(at), device=at.device), at]
    ones = features.new_ones(len(features), 1 if last.bias is not None else 0)
    return torch.cat([features, ones], 1).double().cpu(), logits.double().cpu()


def _last_map(model: Any) -> nn.Linear:
    """The last linear map of the head, that which is in use where PEFT keeps several."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return list(_maps(plain))[-1]


def _maps(model: Any) -> Iterator[nn.Linear]:
    for name in family_of(model.config).heads:
        head: Any = getattr(model, name, None)
        wrapped = getattr(head, "modules_to_save", None)
        used = wrapped[head.active_adapters[0]] if wrapped is not None else head
        if used is not None:
            yield from (module for module in used.modules() if isinstance(module, nn.Linear))
