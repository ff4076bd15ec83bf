"""``probe generate``: base and edited text side by side, on a small saved model."""

import io
import json
from pathlib import Path

import pytest
import small_models
from rich.console import Console

import probe
from probe.cli import main
from probe.cli.generation_view import show_generations

PROMPT = "the quick brown fox"
DO = "scale:heads=L0.H1+L1.H2,alpha=-3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model with its tokenizer, saved."""
    where: Path = tmp_path_factory.mktemp("model")
    small_models.llama().save_pretrained(where)
    small_models.letters().save_pretrained(where)
    return str(where)


def test_json_holds_tokens_and_their_probabilities(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One object; a control only where one was asked."""
    call = ["generate", folder, "--prompt", PROMPT, "--do", DO, "--new-tokens", "8", "--json"]
    assert main([*call, "--control"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert list(found["runs"]) == ["base", "edited", "control"]
    for run in found["runs"].values():
        assert len(run["tokens"]) == len(run["probs"]) == len(run["str_tokens"]) == 8
        assert all(0 < p <= 1 for p in run["probs"])
    at = found["runs"]["edited"]["differs_at"]
    base, edited = found["runs"]["base"]["tokens"], found["runs"]["edited"]["tokens"]
    assert base[:at] == edited[:at]
    assert base[at] != edited[at]
    assert main(call) == 0
    assert json.loads(capsys.readouterr().out)["runs"]["control"] is None


def test_a_pipe_gets_plain_text(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Under one another, with the first difference told."""
    assert main(["generate", folder, "--prompt", PROMPT, "--do", DO, "--new-tokens", "8"]) == 0
    out, _ = capsys.readouterr()
    assert out.index("base\n") < out.index(f"edited: {DO}\n")
    assert "edited: differs from token" in out
    assert "\x1b" not in out


def test_a_terminal_gets_columns_with_the_first_difference_marked() -> None:
    """Base and edited beside each other; the token that differs is reversed."""
    found = probe.generate((small_models.llama(), small_models.letters()), PROMPT, [DO])
    screen = io.StringIO()
    show_generations(found, Console(file=screen, force_terminal=True, width=100, markup=False))
    shown = screen.getvalue()
    assert any("base" in line and "edited: " in line for line in shown.splitlines())
    assert "\x1b[7m" in shown


def test_no_effect_on_the_text_is_told(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An edit may act and yet change no token."""
    assert main(["generate", folder, "--prompt", PROMPT, "--do", "scale:heads=L0.H1,alpha=1.00001"]) == 0
    assert "edited: the same 40 tokens as the base" in capsys.readouterr().out


BAD_CALLS = {
    "no prompt": (["--do", DO], "--prompt"),
    "no intervention": (["--prompt", "a"], "--do"),
    "empty prompt": (["--prompt", " ", "--do", DO], "--prompt was asked; it holds no text"),
    "unknown head": (["--prompt", "a", "--do", "zero:heads=L5.H0"], "unknown head 'L5.H0'"),
    "unknown intervention": (["--prompt", "a", "--do", "sclae:alpha=2"], "did you mean 'scale'"),
    "comma in a list": (["--prompt", "a", "--do", "zero:heads=L0.H0,L0.H1"], "join lists by +"),
    "temperature alone": (["--prompt", "a", "--do", DO, "--temperature", "1"], "without --sample"),
    "cold": (["--prompt", "a", "--do", DO, "--sample", "--temperature", "0"], "above 0"),
    "no tokens": (["--prompt", "a", "--do", DO, "--new-tokens", "0"], "at least 1"),
    "no room": (["--prompt", "a" * 100, "--do", DO], "positions for 128"),
}


@pytest.mark.parametrize("what", BAD_CALLS)
def test_a_wrong_call_is_one_sentence_and_code_2(
    what: str, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, with nothing on standard output."""
    arguments, message = BAD_CALLS[what]
    assert main(["generate", folder, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
