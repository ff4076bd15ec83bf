"""Loading: from folders, objects and ids; and what a model that cannot be trusted gets."""

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import bert, letters, llama, t5, vit
from transformers import RobertaConfig, RobertaModel

from probe.errors import ModelError, UnknownNameError, UsageError
from probe.models import LoadedModel, as_loaded, check_weights, load


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a small decoder and its tokenizer."""
    llama().save_pretrained(tmp_path / "model")
    letters().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_folder_gives_model_tokenizer_and_source(saved: Path) -> None:
    """A folder loads in evaluation mode and float32, and says that it came from a path."""
    loaded = load(saved)
    assert not loaded.model.training
    assert (loaded.source.source, loaded.source.dtype) == ("path", "float32")
    assert loaded.tokenizer("abc").input_ids == letters()("abc").input_ids
    assert loaded.max_positions == 128
    for name, weight in llama().named_parameters():
        assert weight.equal(dict(loaded.model.named_parameters())[name])


def test_asked_dtype_is_given(saved: Path) -> None:
    """A dtype by name or object; another is refused with the nearest name."""
    assert load(saved, dtype="bfloat16").source.dtype == "bfloat16"
    assert next(load(saved, dtype=torch.float16).model.parameters()).dtype == torch.float16
    with pytest.raises(UnknownNameError, match="did you mean 'bfloat16'"):
        load(saved, dtype="bfloat")


@pytest.mark.parametrize("model", [bert, t5, vit])
def test_every_kind_of_model_loads_from_its_folder(model, tmp_path: Path) -> None:
    """Encoders, encoder-decoders and vision models load by the architecture that their configuration names."""
    model().save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded.model) is type(model())
    assert loaded.tokenizer is None
    assert any("no tokenizer" in note for note in loaded.notes)


def test_objects_are_taken_as_they_are() -> None:
    """A model, a pair, and a LoadedModel pass through untouched, training mode included."""
    model = llama().train()
    pair = as_loaded((model, letters()))
    assert pair.model is model
    assert model.training
    assert as_loaded(pair) is pair
    assert as_loaded(model).tokenizer is None
    assert load((model, None)).source.source == "given"


@pytest.mark.parametrize("wrong", [3, None, ("a", "b"), [llama], {"model": 1}])
def test_other_objects_are_refused(wrong: object) -> None:
    """What is no model is refused by its type."""
    with pytest.raises(UsageError, match="a model was asked as"):
        as_loaded(wrong)


def test_loaded_objects_are_not_moved() -> None:
    """A device or dtype for an object that is loaded already is an error, not ignored."""
    with pytest.raises(UsageError, match=r"move it with model\.to"):
        load(llama(), dtype="float16")


def test_device_that_is_not_there(saved: Path) -> None:
    """A device that does not exist here is an error of the call."""
    with pytest.raises(UsageError, match="'cuda:77'"):
        load(saved, device="cuda:77")
    with pytest.raises(UsageError, match="'toaster'"):
        load(saved, device="toaster")


@pytest.mark.parametrize(
    "name", ["smolm2-135m", "no-such-model", "./nowhere", "/no/such/folder", "a/b/c", ""]
)
def test_unknown_names_fail_at_once(name: str) -> None:
    """A name that is neither known nor a folder is refused in well under a second, without the network."""
    begin = time.perf_counter()
    with pytest.raises(UnknownNameError, match="hub id is written owner/name"):
        load(name)
    assert time.perf_counter() - begin < 5


def test_hub_id_without_network_says_what_to_do() -> None:
    """Offline, a hub id that is not in the local cache is a ModelError that names the ways out."""
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE.*probe fetch smollm2-135m"):
        load("nobody/never-downloaded")


def test_folder_without_config(tmp_path: Path) -> None:
    """A folder that is no model says what is missing."""
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)


def test_broken_weights_file(saved: Path) -> None:
    """A truncated weights file is a ModelError that names the model, not a traceback of the reader."""
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="could not be loaded"):
        load(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(saved: Path, value: float) -> None:
    """NaN or infinity anywhere is refused with the tensor's, and so the layer's, name."""
    path = saved / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.self_attn.k_proj.weight"][0, 0] = value
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.self_attn\.k_proj\.weight holds"):
        load(saved)


def test_weights_without_values_are_refused() -> None:
    """A model on the meta device has no numbers to look at."""
    with torch.device("meta"):
        empty = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="no values"):
        check_weights(empty)


def test_missing_weights_are_never_silent(saved: Path) -> None:
    """Most of the weights missing is an error, since transformers would make them up; a few are a note."""
    path = saved / "model.safetensors"
    weights = load_file(path)
    few = {name: weight for name, weight in weights.items() if name != "model.norm.weight"}
    save_file(few, path, metadata={"format": "pt"})
    assert any("model.norm.weight" in note for note in load(saved).notes)
    many = {name: weight for name, weight in weights.items() if "self_attn" not in name}
    save_file(many, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="would be random"):
        load(saved)


def test_positions_that_begin_behind_the_padding_index() -> None:
    """Where two position rows are reserved, 66 rows hold 64 tokens."""
    config = RobertaConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=66, pad_token_id=1,
    )  # fmt: skip
    assert as_loaded(RobertaModel(config)).max_positions == 64
    assert as_loaded(t5()).max_positions is None


def test_real_models_say_what_they_should(smollm2: LoadedModel, minilm: LoadedModel) -> None:
    """The default model completes a fact and keeps its chat template; the encoder has one vector per token."""
    tokenizer = smollm2.tokenizer
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    said = smollm2.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(said[0]) == "The capital of France is Paris"
    assert tokenizer.chat_template
    assert smollm2.source.quantisation == "Q4_1"
    with torch.no_grad():
        seen = minilm.model(**minilm.tokenizer("a test", return_tensors="pt")).last_hidden_state
    assert seen.shape == (1, 4, 384)
