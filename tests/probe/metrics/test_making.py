"""Specs become metrics; wrong ones are refused by name."""

import pytest

from probe.errors import UnknownNameError, UsageError
from probe.metrics import METRICS, make, metric_infos, names
from probe.metrics.sink import Sink


def test_key_is_the_spec_as_typed() -> None:
    """A report finds the answer under what the user typed."""
    assert make("sink:n=1").spec == "sink:n=1"
    assert make("entropy").spec == "entropy"


def test_python_and_command_line_agree_on_the_key() -> None:
    """Built in Python, the key names the parameters that differ from their default."""
    assert Sink().spec == "sink"
    assert Sink(n=4).spec == "sink:n=4"
    assert make("entropy:normalized=true").spec == type(make("entropy"))(normalized=True).spec


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sink:n=four", ["sink", "n", "'four'", "a whole number"]),
        ("sink:n=1.5", ["sink", "n", "'1.5'", "a whole number"]),
        ("sink:n=0", ["sink", "n", "0", "1 or more"]),
        ("sink:n=-3", ["sink", "n", "-3", "1 or more"]),
        ("entropy:normalized=yes", ["entropy", "normalized", "'yes'", "true or false"]),
        ("local_global:fraction=nan", ["local_global", "fraction", "'nan'", "a number"]),
        ("local_global:fraction=0.7", ["local_global", "fraction", "0.7", "at most 0.5"]),
        ("induction:norm=rows", ["induction", "norm", "'rows'", "all", "matched"]),
        ("head_output_norm:of=x", ["head_output_norm", "of", "'x'", "z", "head_out"]),
        ("future_influence:lo=5,hi=4", ["future_influence", "hi", "4", "lo (5)"]),
        ("future_influence:lo=-1", ["future_influence", "lo", "-1", "0 or more"]),
        ("waad:window=0", ["waad", "window", "0", "1 or more"]),
        ("span_mass", ["span_mass", "span", "span_mass:span=…"]),
        ("sink:n", ["sink:n", "k=v"]),
    ],
)
def test_bad_parameters_are_refused_with_what_was_found_and_what_is_allowed(
    spec: str, words: list[str]
) -> None:
    """The message names metric, parameter, what was found and what is allowed; the exit code is 2."""
    with pytest.raises(UsageError) as refused:
        make(spec)
    assert all(word in str(refused.value) for word in words), str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("spec", "near"),
    [("entropi", "'entropy'"), ("previous_tokens", "'previous_token'"), ("future_influence:low=3", "'lo'")],
)
def test_unknown_names_offer_the_nearest(spec: str, near: str) -> None:
    """A slip of the keyboard is answered with the name that was meant."""
    with pytest.raises(UnknownNameError, match=near):
        make(spec)


def test_a_metric_without_parameters_says_so() -> None:
    """There is nothing near to offer."""
    with pytest.raises(UnknownNameError, match="distance takes no parameters"):
        make("distance:n=3")


def test_every_name_is_described() -> None:
    """Each metric and experiment has one sentence, a unit, a paper and a BibTeX entry of its own name."""
    infos = metric_infos()
    assert [one.name for one in infos] == names()
    assert set(METRICS) <= set(names())
    for one in infos:
        assert len(one.summary.split()) > 4, one.name
        assert one.unit
        assert one.paper
        assert one.bibtex.strip().startswith("@"), one.name
        assert one.bibtex.strip().endswith("}"), one.name
        assert one.bibtex.count("{") == one.bibtex.count("}"), one.name
        assert max(map(len, one.summary.splitlines())) < 120
