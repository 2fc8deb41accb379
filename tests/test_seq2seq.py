"""Models of an encoder and a decoder: places of two stacks, packs, what is kept of the encoder, counts."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model, set_peft_model_state_dict
from tiny_models import perturb
from tiny_packs import SETTINGS
from tiny_seq2seq import DECODER, ENCODER, FAMILIES, LAYERS, bench, inputs_of, model_of, words
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from autopeft.anatomy import CROSS, hidden_states, shape_of
from autopeft.anatomy import FAMILIES as KNOWN
from autopeft.attaching import Attachment, try_hybrids
from autopeft.attention import FUSED, MATMUL
from autopeft.candidate import Candidate
from autopeft.costs import COSTS
from autopeft.costs._flops import answer_flops, training_flops
from autopeft.engine.settings import TrainingSettings
from autopeft.errors import AutopeftError
from autopeft.exporting._lora import lora_config, lora_state
from autopeft.formats import Conversation, Part, Turn
from autopeft.formats._apart import PairTokenizer, apart
from autopeft.hybrid import Hybrid
from autopeft.merging import merge
from autopeft.methods.bitfit import BitFit
from autopeft.methods.dora import DoRA
from autopeft.methods.lora import LoRA
from autopeft.methods.parallel import Parallel
from autopeft.methods.prefix import Prefix
from autopeft.methods.residual import Residual
from autopeft.methods.sequential import Sequential
from autopeft.methods.vera import VeRA
from autopeft.readouts._frozen_head import head_of
from autopeft.readouts.seq2seq_lm import Seq2SeqLM
from autopeft.space import SearchSpace

#: Two by default: what is otherwise in others is found by the slow ones.
families = pytest.mark.parametrize(
    "family", [name if name in ("t5", "marian") else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
two = pytest.mark.parametrize("family", ["t5", "marian"])
model = lru_cache(maxsize=16)(model_of)


def mixed() -> list[Hybrid]:
    """Of both stacks, two sizes in one layer, of the decoder alone, and nothing at all."""
    maps = ("q", "v", "o", "up", "down")
    low, high = ENCODER - 1, ENCODER
    return [
        Hybrid.from_layers(
            LAYERS, {low: [LoRA(2, sites=maps), Prefix(3)], high: [LoRA(3, sites=("q", *CROSS)), Prefix(2)]}
        ),
        Hybrid.from_layers(LAYERS, {low: [LoRA(4, sites=maps), Residual(2)], LAYERS - 1: [VeRA(3, sites=CROSS)]}),
        Hybrid.from_layers(LAYERS, {high: [LoRA(5, sites=("k", *CROSS)), Parallel(2)]}),
        Hybrid.from_layers(LAYERS, {high: [Prefix(4)], LAYERS - 1: [Sequential(3, sites=("o", "down"))]}),
        Hybrid.uniform(LAYERS),
    ]


def drawn(tried: PreTrainedModel, members: list[Hybrid]) -> list[dict[str, torch.Tensor]]:
    """Weights of each, all random."""
    found = []
    for k, hybrid in enumerate(members):
        with Attachment(tried, hybrid) as alone:
            perturb(alone.banks, seed=k + 1)
            found.append({name: w.clone() for name, w in alone.banks.weights().items()})
    return found


def logits(model: Any, inputs: dict[str, torch.Tensor], count: int = 1) -> torch.Tensor:
    """[K, tokens of the targets, words]."""
    found = model(**{name: x.repeat(count, 1) for name, x in inputs.items()}).logits
    return found.unflatten(0, (count, -1))[:, inputs["decoder_attention_mask"].bool()]


def apart_by(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def test_every_family_is_tried() -> None:
    named = {name for name, row in KNOWN.items() if row.decoder is not None}
    assert named == {family.partition("-")[0] for family in FAMILIES}


@families
@torch.no_grad()
def test_hybrids_that_add_nothing_give_the_bare_model(family: str) -> None:
    tried, inputs = model(family), inputs_of()
    try_hybrids(tried, family, FUSED)
    shape = shape_of(tried)
    assert [stack.layers for stack in shape.stacks] == [ENCODER, DECODER]
    assert [i for i in range(LAYERS) if shape.at(i).has("cross.q")] == list(range(ENCODER, LAYERS))
    # And the head is worked out as the model works it out.
    head = head_of(tried)
    assert head is not None
    own = head.logits(hidden_states(tried, inputs).flatten(0, 1))
    assert apart_by(own.view(3, -1, 99)[inputs["decoder_attention_mask"].bool()], logits(tried, inputs)[0]) < 1e-5


@families
@pytest.mark.parametrize("attention", [FUSED, MATMUL])
@torch.no_grad()
def test_a_pack_is_its_members_alone(family: str, attention: str) -> None:
    tried, inputs, members = model(family), inputs_of(), mixed()
    bare, weights = logits(tried, inputs)[0], drawn(tried, members)
    with Attachment(tried, members, attention=attention) as together:
        for k, own in enumerate(weights):
            together.banks.load(own, k)
        found = logits(tried, inputs, len(members))
        trained = [together.banks.trained_count(k) for k in range(len(members))]
    assert apart_by(found[-1], bare) < 1e-5
    for k, hybrid in enumerate(members):
        assert (
            trained[k]
            == hybrid.num_params(shape_of(tried))
            == COSTS.get("trainable_params")().of(hybrid, shape_of(tried), 8)
        )
        with Attachment(tried, hybrid, attention=attention) as alone:
            alone.banks.load(weights[k])
            assert apart_by(logits(tried, inputs)[0], found[k]) < 1e-5
        assert hybrid.is_empty or apart_by(found[k], bare) > 1e-4
    assert torch.equal(logits(tried, inputs)[0], bare)


@families
@torch.no_grad()
def test_each_place_is_its_map_merged_and_stock_lora(family: str) -> None:
    tried, inputs = model(family), inputs_of()
    bare, shape = logits(tried, inputs)[0], shape_of(tried)
    gate = ("gate",) if shape.gated else ()
    for site in ("q", "k", "v", "o", "up", *gate, "down", *CROSS):
        hybrid = Hybrid.from_layers(LAYERS, {LAYERS - 1: [LoRA(2, sites=(site,), scale=2.0)]})
        if site not in CROSS:
            hybrid = Hybrid.from_layers(LAYERS, {0: [LoRA(3, sites=(site,))], **dict(enumerate(hybrid.layers[1:], 1))})
        with Attachment(tried, hybrid) as attached:
            perturb(attached.banks)
            by_hook = logits(tried, inputs)[0]
            weights = {name: w.clone() for name, w in attached.banks.weights().items()}
        assert apart_by(by_hook, bare) > 1e-4, site
        merged = copy.deepcopy(tried)
        merge(merged, hybrid, weights)
        assert apart_by(logits(merged, inputs)[0], by_hook) < 1e-5, site
        stock, named = copy.deepcopy(tried), {f"hybrid.{name}": w for name, w in weights.items()}
        config = lora_config(hybrid, tried, Seq2SeqLM(), padded=False)
        tuned: Any = get_peft_model(stock, config)
        assert not set_peft_model_state_dict(tuned, lora_state(hybrid, named, tried, padded=False)).unexpected_keys
        assert apart_by(logits(tuned, inputs)[0], by_hook) < 1e-5, site


@families
@torch.no_grad()
def test_generating_is_the_same_with_and_without_a_cache_and_in_packs(family: str) -> None:
    tried, inputs, members = copy.deepcopy(model(family)), inputs_of(), mixed()[:4]
    source = {name: x for name, x in inputs.items() if not name.startswith("decoder_")}
    written = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    weights = drawn(tried, members)
    with Attachment(tried, members) as together:
        for k, own in enumerate(weights):
            together.banks.load(own, k)
        repeated = {name: x.repeat(len(members), 1) for name, x in source.items()}
        found = generated(tried, repeated, **written).unflatten(0, (len(members), -1))
    assert len(found.flatten(1).unique(dim=0)) > 1
    for k, hybrid in enumerate(members):
        with Attachment(tried, hybrid) as alone:
            alone.banks.load(weights[k])
            assert torch.equal(generated(tried, source, **written), found[k])
            assert torch.equal(generated(tried, source, use_cache=False, **written), found[k])
            beams = [generated(tried, source, num_beams=3, use_cache=use, **written) for use in (True, False)]
            assert torch.equal(*beams)


def generated(tried: Any, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    found: torch.Tensor = tried.generate(**inputs, **options)
    return found


# --- counts ----------------------------------------------------------------------------------------------------------


def counted(tried: PreTrainedModel, hybrid: Hybrid, source: int, target: int) -> int:
    """What torch counts of layers for an example, forward and backward."""
    ids = {"input_ids": torch.ones(2, source, dtype=torch.long), "decoder_input_ids": torch.ones(2, target).long()}
    with Attachment(tried, hybrid, attention=MATMUL), FlopCounterMode(display=False) as counter:
        hidden_states(tried, ids).sum().backward()
    whole, rest = divmod(counter.get_total_flops(), 2)
    assert rest == 0
    return whole


@families
@pytest.mark.parametrize("chosen", range(4))
def test_flops_are_those_that_torch_counts(family: str, chosen: int) -> None:
    tried, hybrid = model(family), mixed()[chosen]
    assert training_flops(hybrid, shape_of(tried), 4, source=7) == counted(tried, hybrid, 7, 4)


@two
@torch.no_grad()
def test_an_answer_costs_what_torch_counts(family: str) -> None:
    tried = copy.deepcopy(model(family))
    kept = Hybrid.from_layers(LAYERS, {0: [Sequential(3)], LAYERS - 1: [Prefix(2), Parallel(3)]})
    ids = torch.full((1, 7), 5)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with Attachment(tried, kept, attention=MATMUL), FlopCounterMode(display=False) as counter:
        assert tried.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options).shape[1] == 5
    assert answer_flops(kept.layers, shape_of(tried), 7, 4) == counter.get_total_flops()


# --- training --------------------------------------------------------------------------------------------------------


SHORT = SETTINGS.model_copy(update={"epochs": 1})


@pytest.mark.parametrize(("family", "checkpoint"), [("t5", True), ("marian", False)])
def test_training_in_packs_and_from_what_is_kept_is_training_alone(
    family: str, checkpoint: bool, tmp_path: Path
) -> None:
    settings: TrainingSettings = SHORT.model_copy(update={"checkpoint": checkpoint})
    on = bench(tmp_path / "model", family, settings=settings)
    members = [Candidate(h, {"learning_rate": r}) for h, r in zip(mixed()[:4], (5e-3, 1e-2, 3e-3, 5e-3), strict=True)]
    together = on.train(members, entered(on, True), leaving={3: [1]})
    plain = on.train(members, entered(on, False))
    for k, candidate in enumerate(members):
        alone = on.train([candidate], entered(on, False))[0]
        assert moved(alone)
        assert alone.losses == pytest.approx(plain[k].losses, rel=1e-5)
        count = len(together[k].losses)
        assert count == (4 if k == 1 else len(alone.losses))
        assert alone.losses[:count] == pytest.approx(together[k].losses, rel=1e-5)


def entered(on: Any, kept: bool) -> Any:
    return on.frozen() if kept else None


def moved(trained: Any) -> bool:
    return any(float(w.abs().max()) > 0 for name, w in trained.weights.items() if name.endswith((".B", ".up")))


def test_what_is_kept_spares_the_encoder(tmp_path: Path) -> None:
    on = bench(tmp_path / "model", "t5", settings=SHORT)
    frozen = on.frozen()
    calls: list[int] = []
    encoder: Any = on.backbone.model.get_encoder()
    handle = encoder.block[0].register_forward_hook(lambda *_: calls.append(1))
    on.train([Candidate(mixed()[2])], frozen)
    filled = len(calls)
    on.train([Candidate(mixed()[3])], frozen)
    handle.remove()
    assert filled > 0
    assert len(calls) == filled


# --- rows and spaces -------------------------------------------------------------------------------------------------


def test_source_and_target_stand_apart() -> None:
    def parts(*texts: str) -> Conversation:
        return Conversation(parts=tuple(Part(t, i == len(texts) - 1) for i, t in enumerate(texts)))

    assert apart(parts("a b", "\n", "c")) == ("a b", "c")
    turns = (Turn("system", "s"), Turn("user", "u"), Turn("assistant", "x", True), Turn("user", "v"))
    assert apart(Conversation((*turns, Turn("assistant", "y", True), Turn("user", "z")))) == ("s\nu\nx\nv", "y")
    with pytest.raises(AutopeftError, match="no text to read"):
        apart(parts("c"))
    with pytest.raises(AutopeftError, match="'score: all'"):
        apart(Conversation(parts=(Part("a", True), Part("b", True))))


def test_a_row_is_its_source_what_a_decoder_begins_with_and_its_target() -> None:
    texts = [Conversation(parts=(Part("w0 w1 w2 w3"), Part("w4 w5", True))).to_json()]
    own = words()
    (found,) = PairTokenizer(own, 5, start=0).rows(texts, str)
    w = [own.convert_tokens_to_ids(f"w{i}") for i in range(6)]
    # Cut to five with the token that ends it.
    assert found.ids == [2, w[0], w[1], w[2], 3, 0, 2, w[4], w[5], 3]
    assert (found.source, found.cut, found.scored) == (5, 1, [False] * 6 + [True] * 4)
    (wrapped,) = PairTokenizer(own, 9, start=None).rows(texts, str)
    assert wrapped.ids[wrapped.source] == wrapped.ids[-1] == 3
    with pytest.raises(AutopeftError, match="row 7: has no text to read"):
        PairTokenizer(own, 9, 0).rows([Conversation(parts=(Part("x", True),)).to_json()], lambda i: "row 7")


@pytest.mark.parametrize("sizes", ["per_layer", "shared"])
def test_a_space_has_dimensions_where_its_blocks_have_places(sizes: str) -> None:
    shape = shape_of(model("marian"))
    blocks = {"own": {"method": "lora", "rank": [0, 2], "sites": ["q", "v"]},
              "cross": {"method": "lora", "rank": [0, 2], "sites": ["cross.q", "cross.v"]}}  # fmt: skip
    space = SearchSpace.load({"sizes": sizes, "blocks": blocks}, shape)
    top = SearchSpace.load({"sizes": sizes, "stack": "decoder", "blocks": blocks}, shape)
    low = SearchSpace.load({"sizes": sizes, "stack": "encoder", "blocks": {"own": blocks["own"]}}, shape)
    for found, layers in ((space, range(LAYERS)), (top, range(ENCODER, LAYERS)), (low, range(ENCODER))):
        full = {d.name: len(d.values) - 1 for d in found.ordinal}
        hybrid = found.hybrid(full)
        hybrid.check(shape)
        assert [i for i, methods in enumerate(hybrid.layers) if methods] == list(layers)
        crossed = [i for i, methods in enumerate(hybrid.layers) if any("cross.q" in m.sites for m in methods)]
        assert crossed == [i for i in layers if i >= ENCODER and found is not low]
        assert found.encode(Candidate(hybrid)) == full
        assert SearchSpace.load(found.to_json(), shape).to_json() == found.to_json()
    with pytest.raises(AutopeftError, match="block 'cross' has no place in the encoder"):
        SearchSpace.load({"stack": "encoder", "blocks": blocks}, shape)


def test_what_does_not_fit_is_refused() -> None:
    shape = shape_of(model("t5"))
    with pytest.raises(AutopeftError, match="no room for prompts"):
        SearchSpace.load({"blocks": {"prompt_tuning": {"length": [0, 4]}}}, shape)
    with pytest.raises(AutopeftError, match="only layers of a decoder"):
        Hybrid.uniform(LAYERS, LoRA(2, sites=("cross.q",))).check(shape)
    # Norms of T5 have no bias, and its maps none that a saved model could keep.
    assert BitFit(1).places(shape.at(0)) == ("q", "k", "v", "o", "up", "down")
    assert DoRA(2, sites=("cross.k",)).num_params(shape.at(LAYERS - 1)) == 2 * (32 + 16) + 16
