"""What forms ask for is checked before a process starts."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probe_app.models import Models
from probe_app.offered import SUITES, checked_specs, choices
from probe_app.pages.intervene import request, toggled
from probe_app.pages.run import uploaded, whole

from probe.analysis import suites
from probe.errors import ProbeError, UsageError


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b/c", "a/..", ".hidden/x", "x\n", "", "C:\\x", "~/m"]
)
def test_models_are_no_paths(name: str) -> None:
    """Known names, hub ids and offered folders alone."""
    with pytest.raises(UsageError, match="this page runs"):
        Models().checked(name)


def test_an_offered_folder_goes_by_its_name(tmp_path: Path) -> None:
    """The worker gets its path, the page its name."""
    (tmp_path / "mine").mkdir()
    models = Models([tmp_path / "mine"])
    assert models.checked("mine") == str((tmp_path / "mine").resolve())
    assert models.checked("org/name") == "org/name"
    assert models.names[0] == "mine"


@given(st.binary(max_size=300))
def test_uploads_are_text_or_refused(raw: bytes) -> None:
    """Whatever is sent, it is read as UTF-8 text or refused in words."""
    sent = "data:text/plain;base64," + base64.b64encode(raw).decode()
    try:
        text = uploaded(sent)
    except UsageError:
        return
    assert text.strip()
    assert text.encode() in raw


def test_large_uploads_are_refused() -> None:
    """By size, whatever the browser let through."""
    with pytest.raises(UsageError, match="at most"):
        uploaded("data:text/plain;base64," + base64.b64encode(b"x" * (2**20 + 1)).decode())


def test_an_edit_names_its_heads_and_its_span() -> None:
    """Heads and words of the form become parts of the request."""
    asked = request("m", ["L1.H2", "L0.H1"], "knockout:queries=all,keys=span", "the cat sat", "cat", 5, 0)
    assert asked["interventions"] == ["knockout:queries=all,keys=span,heads=L1.H2+L0.H1"]
    assert asked["spans"] == {"span": [4, 7]}


@pytest.mark.parametrize(
    ("heads", "how", "text", "words", "said"),
    [
        (["H1"], "zero", "x", "", "heads are written"),
        ([], "zero", " ", "", "without a text"),
        (["L1.H1"], "zero:heads=L1.H2", "x", "", "give them once"),
        ([], "zero", "the cat", "dog", "does not hold these words"),
        ([], "zero:alpha", "x", "", "k=v"),
    ],
)
def test_wrong_edits_are_told(heads: list[str], how: str, text: str, words: str, said: str) -> None:
    """In words, before anything starts."""
    with pytest.raises(ProbeError, match=said):
        request("m", heads, how, text, words, 5, 0)


def test_numbers_and_specs() -> None:
    """Whole numbers, and metrics named once."""
    assert whole("", "n", 1) is None
    assert whole(3.0, "n", 1) == 3
    for wrong in (0, 1.5, True, "7"):
        with pytest.raises(UsageError):
            whole(wrong, "n", 1)
    with pytest.raises(UsageError, match="twice"):
        checked_specs(["sink", "sink"])
    assert checked_specs(["sink:n=4", "suite:sinks"]) == ["sink:n=4", "suite:sinks"]
    with pytest.raises(ProbeError, match="suite"):
        checked_specs(["suite:sink"])


def test_the_form_offers_what_an_analysis_knows() -> None:
    """Every suite, and every name in the form that its checks take."""
    assert set(SUITES) == {*suites.SUITES, "all"}
    names = [name for group in choices() for name in group["items"]]
    assert checked_specs(names) == names


def test_a_click_chooses_and_the_next_leaves_out() -> None:
    """Heads of the map toggle."""
    assert toggled(["L0.H1"], "L0.H2") == ["L0.H1", "L0.H2"]
    assert toggled(["L0.H1"], "L0.H1") == []
