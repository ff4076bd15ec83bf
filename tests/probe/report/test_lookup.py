"""A key means one answer, or the error says which ones it could mean."""

import pytest
from made_reports import made_answer, made_map, made_report

from probe.errors import ReportError


def test_the_spec_as_typed_is_the_key() -> None:
    """The head map is found by the spec, and by the bare name while that is unambiguous."""
    report = made_report(made_answer("entropy"), made_answer("sink:n=4"))
    assert report["sink:n=4"].identical(report["sink"])
    assert report.keys() == ["entropy", "sink:n=4"]
    assert list(report) == report.keys()
    assert "sink:n=4" in report
    assert "sink" not in report


def test_an_exact_spec_wins_over_a_name() -> None:
    """``sink`` is the answer of the spec ``sink`` even where ``sink:n=4`` is there too."""
    report = made_report(made_answer("sink", made_map([[1.0]])), made_answer("sink:n=4", made_map([[4.0]])))
    assert report["sink"].item() == 1.0


def test_an_ambiguous_name_lists_the_specs() -> None:
    """One metric with two parameters has no bare name."""
    with pytest.raises(ReportError, match=r"sink:n=1, sink:n=4"):
        made_report(made_answer("sink:n=4"), made_answer("sink:n=1"))["sink"]


def test_an_unknown_key_offers_the_nearest() -> None:
    """A slip of the pen is answered with what was meant."""
    with pytest.raises(ReportError, match="did you mean 'entropy'"):
        made_report()["entrpy"]


def test_the_decoder_is_meant_unless_another_tower_is_named() -> None:
    """Three L0.H0 of an encoder-decoder are told apart by tower."""
    answers = [
        made_answer(tower=t, head_map=made_map([[float(i)]])) for i, t in enumerate(("encoder", "decoder"))
    ]
    report = made_report(*answers)
    assert report["entropy"].item() == 1.0
    assert report["entropy@encoder"].item() == 0.0
    assert report.answer("entropy", tower="encoder").tower == "encoder"
    assert report.keys() == ["entropy@encoder", "entropy"]


def test_the_only_tower_needs_no_name() -> None:
    """An encoder's report is asked like a decoder's."""
    report = made_report(made_answer(tower="encoder"))
    assert report.answer("entropy").tower == "encoder"
    assert report.keys() == ["entropy"]


def test_several_towers_without_a_decoder_must_be_named() -> None:
    """Neither of text and vision is the obvious one."""
    report = made_report(made_answer(tower="encoder"), made_answer(tower="vision"))
    with pytest.raises(ReportError, match="entropy@encoder, entropy@vision"):
        report["entropy"]
    assert report["entropy@vision"].sizes == {"layer": 2, "head": 3}


def test_a_tower_that_was_not_measured_is_refused() -> None:
    """The message lists the towers there are."""
    with pytest.raises(ReportError, match="measured in decoder"):
        made_report().answer("entropy", tower="vision")


def test_the_same_answer_twice_is_refused() -> None:
    """Two answers under one key could not be told apart."""
    with pytest.raises(ReportError, match="twice"):
        made_report(made_answer(), made_answer())


def test_an_empty_report_says_so() -> None:
    """A report may hold no answers."""
    from probe.report import ModelRecord, Provenance, Report

    with pytest.raises(ReportError, match="no answers"):
        Report([], Provenance(ModelRecord("m")))["entropy"]
