"""The error tree."""

import inspect
import re

import pytest

from probe import errors


def _all() -> list[type[errors.ProbeError]]:
    return [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.ProbeError)
    ]


def test_every_error_of_ours_is_a_probe_error_and_drawn_in_the_tree() -> None:
    """One except clause catches all of them, and the module's picture is complete."""
    classes = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__
    ]
    drawn = set(re.findall(r"\b[A-Z]\w+Error\b", errors.__doc__ or ""))
    assert {kind.__name__ for kind in classes} == drawn
    assert all(issubclass(kind, errors.ProbeError) for kind in classes)


def test_exit_codes_say_who_can_help() -> None:
    """2 where the call was wrong or the model cannot serve it, 1 where running failed."""
    assert {kind.exit_code for kind in _all()} == {1, 2}
    assert (
        errors.UnknownNameError.exit_code == errors.InputError.exit_code == errors.OutputError.exit_code == 2
    )
    assert errors.ModelError.exit_code == errors.UnseenLayersError.exit_code == 2
    assert errors.CaptureError.exit_code == errors.MetricError.exit_code == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("entrpy", "unknown metric 'entrpy'; did you mean 'entropy'?"),
        ("zzz", "unknown metric 'zzz'; known: entropy, sink."),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, message: str) -> None:
    """Or with all there are."""
    assert str(errors.UnknownNameError.of("metric", name, ["sink", "entropy"])) == message
