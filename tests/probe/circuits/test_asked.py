"""From text to a call of a method: everything is checked against the method's own signature."""

import pytest

from probe.circuits.asked import NODE_ALIASES, read_call
from probe.circuits.nodes import NODES
from probe.circuits.table import ALIASES, METHODS, full_name, method
from probe.errors import UnknownNameError, UsageError


def test_a_spec_and_flags_become_parameters_and_options() -> None:
    """Values have the types of the signature; short names stand for long ones."""
    asked = read_call("activation:layers=1+3,count=5", {"nodes": "heads", "at": "end", "min_accuracy": "0.5"})
    assert (asked.name, asked.function) == ("activation_patching", method("activation_patching"))
    assert asked.values == {"layers": [1, 3], "nodes": "z", "at": "end"}
    assert (asked.options.count, asked.options.min_accuracy, asked.options.seed) == (5, 0.5, 0)
    assert asked.takes_pairs
    assert asked.takes_options


def test_several_values_are_joined() -> None:
    """By ``+``, each by its own name or a short one."""
    assert read_call("attribution", {"nodes": "heads+mlp+k"}).values == {"nodes": "z+mlp_out+k"}


def test_what_is_not_said_is_left_to_the_method() -> None:
    """No parameter is passed that nobody gave."""
    asked = read_call("activation_patching", {})
    assert asked.values == {}


@pytest.mark.parametrize(
    ("spec", "more", "error", "words"),
    [
        ("activaton", {}, UnknownNameError, "did you mean 'activation'"),
        ("activation", {"att": "end"}, UnknownNameError, "option of activation_patching 'att'; did you mean 'at'"),
        ("activation:model=x", {}, UnknownNameError, "option of activation_patching 'model'"),
        ("activation:pairs=ioi", {}, UnknownNameError, "option of activation_patching 'pairs'"),
        ("activation:at=end", {"at": "all"}, UsageError, "give at once"),
        ("activation:layers=a", {}, UsageError, "layers was 'a'"),
        ("activation:direction=up", {}, UsageError, "denoise, noise"),
        ("activation:count=0", {}, UsageError, "at least 1"),
        ("activation:measure=loss", {}, UnknownNameError, "measure 'loss'"),
        ("activation:at", {}, UsageError, "k=v"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_told(spec: str, more: dict[str, str], error: type[UsageError], words: str) -> None:
    """What was asked stands in the sentence."""
    with pytest.raises(error, match=words):
        read_call(spec, more)


def test_short_names_hide_no_others() -> None:
    """A short name is no method's or node's own name, and every node that one stands for is there."""
    assert not ALIASES.keys() & METHODS.keys()
    assert not NODE_ALIASES.keys() & set(NODES)
    assert set(NODE_ALIASES.values()) <= set(NODES)
    assert [full_name(short) for short, long in ALIASES.items() if long in METHODS] == [
        long for long in ALIASES.values() if long in METHODS
    ]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_called_by_text(name: str) -> None:
    """Its code is there, its function has its name and says what it does, and nothing but text is needed."""
    function = method(name)
    assert function.__name__ == name
    assert function.__doc__
    assert METHODS[name].summary
    assert METHODS[name].paper
    assert read_call(name, {}).name == name
