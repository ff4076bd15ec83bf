"""``probe fetch``."""

from collections.abc import Callable
from pathlib import Path

import pytest

from probe import models
from probe.cli import main


def test_it_tells_where_the_model_is_and_its_terms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that comes with terms shows them, whether it was downloaded now or before."""

    def fetch(name: str, *, progress: Callable[[int, int, str], None]) -> Path:
        progress(1, 2, "downloading")
        return tmp_path / name

    monkeypatch.setattr(models, "fetch", fetch)
    assert main(["fetch", "gemma3-270m"]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "gemma3-270m") in shown
    assert "Gemma Terms of Use" in shown
