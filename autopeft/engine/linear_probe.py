"""A head that knows what the frozen backbone knows, which every candidate then starts from.

Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", section 3.4: the
head is trained on the frozen backbone first (a linear probe), then all is trained. A head that is drawn at random
learns for most of a short training, at a rate that is the method's.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from autopeft.candidate import Candidate
from autopeft.engine.backbone import Backbone
from autopeft.engine.data import TokenizedTask, steps_of
from autopeft.engine.frozen import FrozenLayers
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import measure_pack, train_epoch, train_steps
from autopeft.hybrid import Hybrid
from autopeft.weight_names import HEAD, part

#: Learning rates of the heads that are trained side by side; the one of least validation loss is taken.
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
#: Steps at least, and examples at most: a linear map on features that do not move needs no more.
_STEPS, _EXAMPLES = 400, 8_192
#: Of the order of examples: a probe is the same whatever the seed of the candidates.
_SEED = 0


def start_at_probe(backbone: Backbone, task: TokenizedTask, settings: TrainingSettings, frozen: FrozenLayers) -> None:
    """Train heads on the bare backbone, and let `Backbone.reset_head` set the best one from then on.

    Nothing happens for a readout without a head of its own. Nothing may be attached.
    """
    if not backbone.heads:
        return
    if len(task.train) > _EXAMPLES:
        some = np.sort(np.random.default_rng(_SEED).permutation(len(task.train))[:_EXAMPLES])
        task = replace(task, train=task.train.take(some))
    epochs = math.ceil(_STEPS / steps_of(task.train, settings, 1))
    # The heads side by side differ by their rates, so none may be the same for all.
    own = settings.model_copy(update={"seed": _SEED, "epochs": epochs, "head_learning_rate": None})
    empty = Hybrid.uniform(backbone.shape.layers)
    top = backbone.shape.layers if frozen.prepare((task.train, task.validation), [backbone.shape.layers]) else 0
    heads = [Candidate(empty, {"learning_rate": rate}) for rate in RATES]
    steps = train_steps(own, task)
    with Pack(backbone, heads, own, [top] * len(heads), steps) as pack:
        for epoch in range(1, epochs + 1):
            train_epoch(pack, task, frozen, epoch)
        losses = [m["loss"] for m in measure_pack(pack, task, task.validation, frozen)]
        best = min(range(len(heads)), key=lambda k: losses[k] if math.isfinite(losses[k]) else math.inf)
        if math.isfinite(losses[best]):
            backbone.head_start = part(pack.weights(best), HEAD)
