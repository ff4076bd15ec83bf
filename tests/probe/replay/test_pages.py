"""Every claim is complete, and the committed pages are what the stored results say."""

import re
from pathlib import Path

import pytest

from probe.replay import CLAIMS, Estimate
from probe.replay.pages import index, page
from probe.replay.stored import stored_in

DOCS = Path(__file__).parents[3] / "docs" / "claims"
NAMES = sorted(CLAIMS)
PAPER = re.compile(r".*arXiv:\d{4}\.\d{4,5}.*|.*\d{4}.*")


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_is_complete(name: str) -> None:
    """It says what is claimed, by whom, on which data, and how; its title is one sentence without a full stop."""
    listed, claim = CLAIMS[name], CLAIMS.load(name)
    assert listed.where.startswith("probe.replay.claims.")
    assert listed.title[0].isupper()
    assert not listed.title.endswith(".")
    assert PAPER.fullmatch(listed.paper)
    assert 0 < listed.minutes <= 20
    assert listed.models
    assert claim.claimed.strip().endswith((".", ")"))
    assert re.search("held[- ]out|train|tuned|chosen|trained", claim.data)
    assert claim.how
    assert "holds" in " ".join(claim.how)


def test_titles_differ() -> None:
    """No two claims are told alike."""
    assert len({one.title for one in CLAIMS.values()}) == len(CLAIMS)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_what_the_results_say(name: str) -> None:
    """Results are of listed models, none of a smoke check, and the page is rendered from them."""
    found = stored_in(DOCS, name)
    if not found:  # not replayed yet: the index says so
        assert not (DOCS / f"{name}.md").exists()
        return
    assert {one.model for one in found} <= set(CLAIMS[name].models)
    assert not any(one.small for one in found)
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == page(CLAIMS[name], CLAIMS.load(name), found)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_of_the_claim_as_it_is(name: str) -> None:
    """The settings that numbers depend on are those of the code; a verdict stands on numbers."""
    claim = CLAIMS.load(name)
    for one in stored_in(DOCS, name):
        assert one.claim == name
        assert dict(one.settings) == _plain(claim.settings)
        assert one.finding.brief
        if one.finding.holds is not None:
            assert one.finding.rows
            assert any(isinstance(row.ours, Estimate) for row in one.finding.rows)
            assert one.measured


def test_the_index_lists_every_result() -> None:
    """README.md is rendered from the results; no page and no result stands without a claim."""
    results = {name: found for name in CLAIMS if (found := stored_in(DOCS, name))}
    assert (DOCS / "README.md").read_text(encoding="utf-8") == index(CLAIMS, results)
    assert {path.stem for path in DOCS.glob("*.md")} == {"README", *results}
    # A folder may hold what an interrupted replay has kept, and nothing else yet.
    stored = {path.name for path in (DOCS / "results").iterdir() if list(path.glob("*.json"))}
    assert stored == set(results)


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return value
