"""A session sees and edits one model's attention, composes, and leaves nothing behind."""

import threading
from dataclasses import replace

import pytest
import tiny
import torch
from probe_kernels import lanes
from probe_kernels.types import Want
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from probe.errors import ModelInUseError, UnsupportedAttentionError, UsageError
from probe.seam import Session


class Watcher:
    """Keeps every call and its entropy."""

    def __init__(self):
        self.calls, self.entropy = [], {}

    def want(self, call):
        return Want(z=False, entropy=True)

    def update(self, call, attended):
        self.calls.append(call)
        key = (call.place.tower, call.place.layer)
        self.entropy.setdefault(key, []).append(attended.entropy)


class Zero:
    """Zeroes every head of one layer."""

    name = "zero"

    def __init__(self, layer=0):
        self.layer = layer

    def attended(self, call, attended):
        return replace(attended, z=attended.z * 0) if call.place.layer == self.layer else attended


def entropy_of(pattern):
    """Row entropy of eager weights in float64."""
    p = pattern.double()
    return -(p * p.clamp_min(1e-300).log()).sum(-1)


def registries():
    """What transformers' registries hold, to compare before and after."""
    return [
        (dict(r._local_mapping), {k: v for k, v in r._global_mapping.items() if not k.startswith("probe")})
        for r in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS)
    ]


@pytest.mark.parametrize("make", [tiny.llama, tiny.mistral, tiny.gemma3])
@pytest.mark.parametrize("mode", ["fused", "shadow"])
def test_statistics_equal_eager_and_outputs_stand(make, mode):
    """Entropy is that of the eager weights; shadow output is bit-exact, fused within 1e-4."""
    model, ids = make(), tiny.tokens()
    with torch.no_grad():
        native = model(ids).logits
        with Session(model, [watch := Watcher()], mode=mode) as session:
            seen = model(ids).logits
            assert session.mode == mode
            assert session.unseen_layers == []
        model.set_attn_implementation("eager")
        eager = model(ids, output_attentions=True).attentions
    if mode == "shadow":
        assert torch.equal(seen, native)
    assert (seen - native).abs().max() < 1e-4
    for layer, pattern in enumerate(eager):
        found = watch.entropy["decoder", layer][0]
        assert (found - entropy_of(pattern)).abs().max() < 1e-5


def test_left_padding_numbers_only_real_tokens():
    """Indices of queries and keys count real tokens; padding is -1; statistics of real rows are unchanged."""
    model, ids = tiny.llama(), tiny.tokens(1, 8)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), ids], 1)
    real = (torch.arange(11) >= 3)[None].long()
    positions = torch.arange(-3, 8).clamp_min(0)[None]
    with torch.no_grad(), Session(model, [watch := Watcher()], mode="fused"):
        model(ids)
        model(padded, attention_mask=real, position_ids=positions)
    call = watch.calls[-1]
    assert call.query_index.tolist() == [[-1, -1, -1, *range(8)]]
    assert call.key_index.tolist() == [[-1, -1, -1, *range(8)]]
    plain, with_padding = watch.entropy["decoder", 1]
    assert (plain - with_padding[:, :, 3:]).abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["fused", "shadow"])
@pytest.mark.parametrize("make", [tiny.llama, tiny.mistral, tiny.gemma3])
def test_generate_continues_the_same_prompts_at_absolute_positions(make, mode):
    """Decode steps keep the prompts' numbers and the absolute index of every key, also where a cache slid."""
    model, ids = make(), tiny.tokens(2, 9)
    native = model.generate(ids, max_new_tokens=6, do_sample=False, min_new_tokens=6)
    with Session(model, [watch := Watcher()], mode=mode):
        made = model.generate(ids, max_new_tokens=6, do_sample=False, min_new_tokens=6)
    assert torch.equal(made, native)
    for layer in (0, 1):
        steps = [call for call in watch.calls if call.place.layer == layer]
        assert [call.batch.prompts for call in steps] == [(0, 1)] * 6
        assert [call.phase for call in steps] == ["prefill"] + ["decode"] * 5
        assert [call.batch.step for call in steps] == list(range(6))
        last = steps[-1]
        assert last.query_index.tolist() == [[13], [13]]
        assert last.key_index[0, -1] == 13
        assert torch.equal(last.key_index[0].diff(), torch.ones(last.size[2] - 1, dtype=torch.int64))
        assert torch.equal(last.batch.tokens, made[:, :-1])


def test_generated_statistics_equal_one_whole_forward():
    """Entropies collected step by step are those of one forward over the whole text."""
    model, ids = tiny.gemma3(), tiny.tokens(1, 7)
    with Session(model, [steps := Watcher()], mode="fused"):
        made = model.generate(ids, max_new_tokens=8, do_sample=False, min_new_tokens=8)
    with torch.no_grad(), Session(model, [whole := Watcher()], mode="fused"):
        model(made[:, :-1])
    for key, seen in steps.entropy.items():
        assert (torch.cat(seen, dim=2) - whole.entropy[key][0]).abs().max() < 2e-5


def test_beams_are_marked_as_reordered():
    """Once beam search swaps rows, calls say so."""
    model, ids = tiny.llama(), tiny.tokens(1, 5)
    with Session(model, [watch := Watcher()]):
        model.generate(ids, max_new_tokens=6, num_beams=3, do_sample=False, min_new_tokens=6)
    assert any(call.batch.reordered for call in watch.calls)


def test_an_encoder_decoder_has_three_towers_with_shared_prompts():
    """Encoder, decoder and cross-attention are told apart; generate() keeps their prompts together."""
    model, ids = tiny.t5(), tiny.tokens(2, 6)
    with Session(model, [watch := Watcher()], mode="fused"):
        model.generate(ids, max_new_tokens=4, do_sample=False, min_new_tokens=4)
    towers = {call.place.tower for call in watch.calls}
    assert towers == {"encoder", "decoder", "cross"}
    assert {call.batch.prompts for call in watch.calls} == {(0, 1)}


def test_an_edit_moves_the_logits_and_is_gone_afterwards():
    """Interventions act inside the block only."""
    model, ids = tiny.llama(), tiny.tokens()
    with torch.no_grad():
        before = model(ids).logits
        with Session(model, [], [Zero()]):
            edited = model(ids).logits
        assert (edited - before).abs().max() > 1e-2
        assert torch.equal(model(ids).logits, before)


def test_an_edit_acts_in_generate_from_another_thread():
    """Scope is the model: the streamer idiom, generate() in a worker thread, is edited and seen."""
    model, ids, results = tiny.llama(), tiny.tokens(1, 6), {}

    def work():
        results["worker"] = model.generate(ids, max_new_tokens=8, do_sample=False, min_new_tokens=8)

    with Session(model, [watch := Watcher()], [Zero(0), Zero(1)]):
        here = model.generate(ids, max_new_tokens=8, do_sample=False, min_new_tokens=8)
        count = len(watch.calls)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert torch.equal(results["worker"], here)
    assert len(watch.calls) == 2 * count


def test_two_models_in_two_threads_do_not_mix():
    """Each session sees its own model only."""
    watchers, errors = [Watcher(), Watcher()], []

    def work(index):
        try:
            model = tiny.llama()
            with torch.no_grad(), Session(model, [watchers[index]], mode=("fused", "shadow")[index]):
                for length in (4, 6, 8):
                    model(tiny.tokens(1, length))
        except Exception as error:  # noqa: BLE001 -- whatever a thread raised must reach the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for watch in watchers:
        assert [call.size[1] for call in watch.calls] == [4, 4, 6, 6, 8, 8]
        assert [call.batch.prompts for call in watch.calls] == [(0,), (0,), (1,), (1,), (2,), (2,)]


def test_a_second_owner_is_refused():
    """Another thread cannot observe an observed model."""
    model, caught = tiny.llama(), []

    def intrude():
        try:
            with Session(model, [Watcher()]):
                pass
        except ModelInUseError as error:
            caught.append(str(error))

    with Session(model, [Watcher()]):
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
    assert len(caught) == 1
    assert "another thread" in caught[0]


def test_a_part_of_an_observed_model_is_refused():
    """Observing model and model.model at once would count twice."""
    model = tiny.llama()
    with (
        Session(model, [Watcher()]),
        pytest.raises(ModelInUseError, match="already observed"),
        Session(model.model),
    ):
        pass


def test_sessions_nest_and_compose():
    """An edit inside an observation: both act, one sweep serves both, each ends with its own block."""
    model, ids = tiny.llama(), tiny.tokens()
    with torch.no_grad(), Session(model, [outer := Watcher()]) as session:
        native = model(ids).logits
        assert session.mode == "shadow"
        with Session(model, [inner := Watcher()], [Zero()]):
            assert session.mode == "fused"
            edited = model(ids).logits
        assert session.mode == "shadow"
        assert torch.equal(model(ids).logits, native)
    assert (edited - native).abs().max() > 1e-2
    assert len(outer.calls) == 6
    assert len(inner.calls) == 2


@pytest.mark.parametrize("mode", ["fused", "shadow"])
def test_everything_is_restored_after_an_error(mode):
    """An observer that raises leaves configs and registries as they were."""
    model, ids = tiny.llama(), tiny.tokens()

    class Broken(Watcher):
        def update(self, call, attended):
            raise RuntimeError("observer broke")

    before, native = registries(), model(ids).logits
    with pytest.raises(RuntimeError, match="observer broke"), Session(model, [Broken()], mode=mode):
        model(ids)
    assert registries() == before
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(ids).logits, native)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_that_bypasses_the_registry_is_read_through_its_weights():
    """Eager weights feed the same statistics, the session says so, and edits are refused."""
    model, ids = tiny.bloom(), tiny.tokens()
    with torch.no_grad():
        with Session(model, [watch := Watcher()]) as session:
            model(ids)
            assert session.mode == "eager"
            assert len(session.fallback_layers) == 2
            assert any("bypasses" in note for note in session.notes)
        pattern = model(ids, output_attentions=True).attentions[1]
    assert (watch.entropy["decoder", 1][0] - entropy_of(pattern)).abs().max() < 1e-5
    with pytest.raises(UnsupportedAttentionError, match="intervention"), Session(model, [], [Zero()]):
        pass


def test_output_attentions_are_our_weights():
    """Viewers that ask transformers for attentions get the whole tuple, from our kernel."""
    model, ids = tiny.gpt_oss(), tiny.tokens(1, 9)
    with torch.no_grad():
        with Session(model, [], mode="fused"):
            ours = model(ids, output_attentions=True).attentions
        native = model(ids, output_attentions=True).attentions
    assert len(ours) == len(native) == 2
    for mine, theirs in zip(ours, native, strict=True):
        assert (mine - theirs).abs().max() < 1e-5


def test_gradients_flow_through_the_fused_path():
    """Parameter gradients equal the native ones."""
    model, ids = tiny.llama(), tiny.tokens()
    model(ids, labels=ids).loss.backward()
    native = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with Session(model, [Watcher()], mode="fused"):
        model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad - native[name]).abs().max() < 1e-4 * (1 + native[name].abs().max())


def test_recomputation_in_backward_is_not_counted_twice():
    """Gradient checkpointing calls attention again; observers hear of it once."""
    model, ids = tiny.llama(), tiny.tokens()
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with Session(model, [watch := Watcher()], mode="fused"):
        model(ids, labels=ids, use_cache=False).loss.backward()
    assert len(watch.calls) == 2


def test_dropout_in_training_is_refused():
    """Statistics of a pattern with dropout belong to no forward."""
    model = tiny.llama(attention_dropout=0.1).train()
    with Session(model, [Watcher()], mode="fused"), pytest.raises(UnsupportedAttentionError, match="dropout"):
        model(tiny.tokens())


def test_wrong_modes_are_refused():
    """Unknown modes, and shadow with interventions."""
    model = tiny.llama()
    with pytest.raises(UsageError, match="fused"):
        Session(model, mode="eager")
    with pytest.raises(UsageError, match="interventions"):
        Session(model, [], [Zero()], mode="shadow")


class LargestTensor(TorchDispatchMode):
    """Watches the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in torch.utils._pytree.tree_leaves(out):
            if isinstance(one, torch.Tensor) and type(one) is torch.Tensor:
                self.largest = max(self.largest, one.untyped_storage().nbytes() // max(1, one.element_size()))
        return out


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3])
def test_no_square_tensor_is_ever_made(make, padded):
    """At 4096 tokens, windows and padding included, no tensor reaches a quarter of n² elements."""
    n = 4096
    lanes.release()  # the scratch memory of an earlier, wider call is no tensor of this one
    model = make(num_hidden_layers=2, max_position_embeddings=n)
    mask = torch.ones(1, n, dtype=torch.int64)
    mask[0, :5] = 0 if padded else 1
    with torch.no_grad(), Session(model, [Watcher()], mode="fused"), LargestTensor() as watch:
        model(tiny.tokens(1, n), attention_mask=mask, logits_to_keep=1, use_cache=False)
    assert watch.largest < n * n // 4
