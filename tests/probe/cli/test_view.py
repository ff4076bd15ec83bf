"""A report on the terminal."""

import io

import numpy as np
from made_reports import made_answer, made_map, made_report
from rich.console import Console

from probe.cli.view import show_report
from probe.report import Report


def _shown(report: Report, width: int = 80, *, color: bool = False, encoding: str = "utf-8") -> str:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, errors="strict")
    out = Console(
        file=stream, width=width, force_terminal=color, color_system="truecolor" if color else None, markup=False,
        highlight=False, emoji=False,
    )  # fmt: skip
    show_report(report, out)
    stream.flush()
    return buffer.getvalue().decode(encoding)


def test_it_shows_model_strip_and_top_heads() -> None:
    """What was run, one strip of means and one of best heads, the names of the best."""
    assert _shown(made_report()) == (
        "tiny   12 tokens · 2 prompts · mode fused · logit drift 4.0e-05\n"
        "note: cut to 12 tokens\n"
        "\n"
        "entropy (nats) What entropy measures, in [0, 1].\n"
        "  layer   0  3\n"
        "  mean    ▅▅▅▅▅▅\n"
        "  highest ███▆▆▆\n"
        "  scale   0.1 to 0.9\n"
        "  top     L0.H1 0.9   L3.H2 0.7   L0.H2 0.5   L3.H0 0.3   L0.H0 0.1\n"
    )


def test_lowest_is_shown_where_low_is_better() -> None:
    """The strip shows the end that ``top`` lists."""
    shown = _shown(made_report(made_answer(better="low")))
    assert "lowest" in shown
    assert "top     L0.H0 0.1" in shown


def test_no_line_is_wider_than_the_terminal() -> None:
    """A hundred layers fit into forty columns."""
    report = made_report(made_answer(head_map=made_map(np.random.default_rng(0).random((100, 4)))))
    strips = [line for line in _shown(report, 40).splitlines() if line.startswith("  ")]
    assert len(strips) == 5
    assert max(map(len, _shown(report, 40).splitlines())) <= 40


def test_without_colour_there_are_no_escapes_and_with_colour_the_same_text() -> None:
    """Colour carries nothing that the text does not."""
    from rich.text import Text

    assert "\x1b" not in _shown(made_report())
    assert Text.from_ansi(_shown(made_report(), color=True)).plain.rstrip() == _shown(made_report()).rstrip()


def test_a_terminal_without_unicode_gets_plain_marks() -> None:
    """Blocks are replaced; nothing fails."""
    report = made_report(name="tiny")
    plain = Report(report.answers, report.provenance, report.prompts)
    shown = _shown(plain, encoding="latin-1")
    assert "@@@" in shown


def test_names_cannot_move_the_cursor_or_be_markup() -> None:
    """Strings from files are shown, not obeyed."""
    shown = _shown(made_report(made_answer("[red]x\x1b[2J"), name="[bold]m\r\x07"))
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[red]x" in shown
    assert "[bold]m" in shown


def test_a_metric_without_any_value_says_so() -> None:
    """An encoder has no answer of a causal metric."""
    assert "no head has a defined value" in _shown(made_report(made_answer(head_map=made_map([[np.nan]]))))
