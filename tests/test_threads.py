"""Several threads, processes and devices on one model with hybrids: what one computes is never another's."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as processes
from peft import get_peft_model
from tiny_models import LABELS, LAYERS, METHOD_NAMES, classifier, everywhere, make, perturb, right_padded, tokens
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from autopeft.anatomy import family_of, layers_of
from autopeft.attaching import Attachment
from autopeft.errors import AutopeftError
from autopeft.methods._place import ModuleInput
from autopeft.peft_tuner import HybridConfig

ALL = everywhere(*(make(name) for name in METHOD_NAMES))
THREADS = 12


@pytest.fixture(autouse=True)
def eager_switching() -> Iterator[None]:
    """Threads change places a thousand times more often than they do by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def attached(family: str, seed: int = 0, **options: Any) -> PreTrainedModel:
    model = classifier(family, seed, **options)
    perturb(Attachment(model, ALL).banks, seed + 1)
    return model


def gradients(model: nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What one step adds to the weights that are trained; dropout is off."""
    model.train()
    for module in (m for m in model.modules() if isinstance(m, nn.Dropout)):
        module.p = 0.0
    model.zero_grad()
    model(**inputs).logits.square().sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def kept_inputs(layer: nn.Module) -> list[ModuleInput]:
    """What keeps the input of a layer's feed-forward network."""
    owners = [getattr(hook, "__self__", None) for hook in layer._forward_hooks.values()]
    return [owner for owner in owners if isinstance(owner, ModuleInput)]


def at_once(work: Callable[[int], Any], count: int) -> list[Any]:
    """The results of `work(0)`, `work(1)`, ... in threads that begin together."""
    start = threading.Barrier(count)

    def run(i: int) -> Any:
        start.wait()
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@torch.no_grad()
def test_threads_on_one_model_compute_what_one_thread_does(family: str) -> None:
    model = attached(family)
    inputs = [right_padded(model, (7, 4, 1 + i % 5), seed=i) for i in range(THREADS)]
    alone = [model(**x).logits for x in inputs]
    assert len({tuple(x.flatten().tolist()) for x in alone}) == THREADS

    @torch.no_grad()
    def work(i: int) -> int:
        return sum(torch.equal(model(**inputs[i]).logits, alone[i]) for _ in range(25))

    assert at_once(work, THREADS) == [25] * THREADS


def test_threads_that_train_models_of_their_own_get_their_own_gradients() -> None:
    models = [attached("bert", seed) for seed in (0, 1)]
    inputs = right_padded(models[0], (7, 4, 1))
    alone = [gradients(model, inputs) for model in models]
    together = at_once(lambda i: [gradients(models[i], inputs) for _ in range(5)], 2)
    for expected, found in zip(alone, together, strict=True):
        for step in found:
            assert step.keys() == expected.keys()
            assert all(torch.equal(step[name], expected[name]) for name in expected)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_recomputed_layers_give_the_same_gradients(family: str, reentrant: bool) -> None:
    model = get_peft_model(classifier(family), HybridConfig(hybrid=ALL, task_type="SEQ_CLS"))
    perturb(nn.ParameterList(p for p in model.parameters() if p.requires_grad))
    inputs = right_padded(model.get_base_model(), (7, 4, 1))
    expected = gradients(model, inputs)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = gradients(model, inputs)
    assert found.keys() == expected.keys()
    # What layers share adds up in another order.
    alone, shared = ({n for n in expected if (".shared." in n) == which} for which in (False, True))
    assert all(torch.equal(found[name], expected[name]) for name in alone)
    for name in shared:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    # A recomputation may end early, and must not leave activations behind.
    kept = [hook for layer in layers_of(model.get_base_model()) for hook in kept_inputs(layer)]
    assert len(kept) == LAYERS
    assert all(hook._kept.value is None for hook in kept)


@torch.no_grad()
def test_an_error_between_the_two_maps_leaves_nothing_behind() -> None:
    model, inputs = attached("bert"), {"input_ids": tokens()}
    expected = model(**inputs).logits
    layer = layers_of(model)[1]
    up = layer.get_submodule(family_of(model.config).site("up").module)
    kept = kept_inputs(layer)

    def fail(*_: Any) -> None:
        assert kept[0]._kept.value is not None
        raise RuntimeError("in the middle")

    handle = up.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        model(input_ids=tokens(2, 5, seed=3))
    handle.remove()
    assert len(kept) == 1
    assert kept[0]._kept.value is None
    assert torch.equal(model(**inputs).logits, expected)


@torch.no_grad()
def test_copies_and_pickles_compute_the_same_and_are_independent() -> None:
    model, inputs = attached("bert"), {"input_ids": tokens()}
    expected = model(**inputs).logits
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(**inputs).logits, expected)
        perturb(other.autopeft, seed=3)
        assert not torch.equal(other(**inputs).logits, expected)
        assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("wrapped", [True, False])
def test_replicas_of_data_parallel_are_refused(wrapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what `DataParallel` calls on several GPUs, its copies between devices made on the CPU."""
    place = sys.modules["torch.nn.parallel.replicate"]
    monkeypatch.setattr(place, "_get_device_index", lambda *_: 0)
    monkeypatch.setattr(
        place,
        "_broadcast_coalesced_reshape",
        lambda ts, devices, detach=False: [[t.clone() for t in ts]] * len(devices),
    )
    model = classifier("bert")
    assert len(place.replicate(model, [0, 0])) == 2
    hybrid = get_peft_model(model, HybridConfig(hybrid=ALL, task_type="SEQ_CLS")) if wrapped else attached("bert")
    with pytest.raises(AutopeftError, match=r"do not run in torch.nn.DataParallel; use DistributedDataParallel"):
        place.replicate(hybrid, [0, 0])


def one_of_two(rank: int, folder: Path) -> None:
    """Half of a batch's gradients through DistributedDataParallel; the first process writes their mean."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    model = get_peft_model(classifier("bert"), HybridConfig(hybrid=ALL, task_type="SEQ_CLS"))
    perturb(nn.ParameterList(p for p in model.parameters() if p.requires_grad))
    parallel = DistributedDataParallel(model)
    gradients(parallel, {"input_ids": tokens(4)[2 * rank : 2 * rank + 2]})
    if rank == 0:
        torch.save({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, folder / "gradients")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_of_distributed_data_parallel_train_as_one(tmp_path: Path) -> None:
    processes.spawn(one_of_two, (tmp_path,), nprocs=2)
    model = get_peft_model(classifier("bert"), HybridConfig(hybrid=ALL, task_type="SEQ_CLS"))
    perturb(nn.ParameterList(p for p in model.parameters() if p.requires_grad))
    whole, mean = gradients(model, {"input_ids": tokens(4)}), torch.load(tmp_path / "gradients")
    assert whole.keys() == mean.keys()
    assert any(".autopeft_banks." in name for name in whole)
    for name, gradient in whole.items():
        torch.testing.assert_close(mean[name] * 2, gradient, rtol=1e-4, atol=1e-4)
    assert model.get_base_model().num_labels == LABELS
