"""Suites: groups of metrics under one name, each of which can be built, asked, and run beside named metrics."""

import re
from pathlib import Path

import pytest
from small_models import letters, llama

import probe
from probe.analysis import suites
from probe.analysis.choice import choose
from probe.analysis.suites import SUITES, suite, suites_with
from probe.cli.running import check_specs
from probe.errors import InputError, UnknownNameError
from probe.metrics import make

README = (Path(__file__).parents[3] / "README.md").read_text()


@pytest.mark.parametrize("name", [*SUITES, "all"])
def test_every_suite_can_be_built_and_holds_nothing_twice(name: str) -> None:
    """Each spec makes a metric or an experiment; no two of a suite are the same, under whatever spelling."""
    specs = suite(name)
    assert specs
    assert len(specs) == len(set(specs))
    made = [make(spec) for spec in specs]
    settings = [
        (one.info.name, sorted((k, repr(v)) for k, v in vars(one).items() if k not in ("spec", "cells")))
        for one in made
    ]
    plain = [repr(one) for one in settings if " at 0x" not in repr(one)]
    assert len(plain) == len(set(plain))
    assert choose(f"suite:{name}").specs


def test_all_is_every_suite_once() -> None:
    """In order, and nothing besides."""
    every = suite("all")
    assert set(every) == {spec for specs in SUITES.values() for spec in specs}
    assert choose("suite:all").in_group == set(every)
    assert all(suites_with(spec.partition(":")[0]) for spec in every)
    assert suites_with("nothing") == []


def test_unknown_suites_offer_the_nearest() -> None:
    """In Python and on the command line."""
    for ask in (lambda: suite("sink"), lambda: choose("suite:sink"), lambda: check_specs(["suite:sink"])):
        with pytest.raises(UnknownNameError, match="did you mean 'sinks'"):
            ask()


def test_suites_and_named_metrics_stand_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spec asked by name and by its suite is asked once; what is of no use here is left out, with the reason."""
    short = "retrieval:lengths=60,needles=1"  # no haystack is that short
    monkeypatch.setattr(suites, "SUITES", {"mine": ("entropy", "sink:n=2", short)})
    model = (llama(), letters())
    report = probe.analyze(model, "the cat sat", ["sink:n=2", "suite:mine"])
    assert report.keys() == ["sink:n=2", "entropy"]
    assert any(note.startswith(f"{short} was left out: a length of 60") for note in report.provenance.notes)
    with pytest.raises(InputError, match="a length of 60"):
        probe.analyze(model, "the cat sat", [short])
    with pytest.raises(InputError, match="a length of 60"):
        probe.analyze(model, "the cat sat", ["suite:mine", short])


def test_the_readme_lists_them() -> None:
    """The names that stand there are those that exist."""
    told = README.split("`--suite NAME`")[1].split("`all`")[0]
    assert set(re.findall(r"`([a-z]+)`", told)) == set(SUITES)
