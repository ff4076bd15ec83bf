"""A report of a notebook in the dashboard."""

import json
import urllib.request
from pathlib import Path

import pytest
from made_reports import made_report
from probe_app import explore


def _answered(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 -- our own server
        return str(answer.read().decode())


def test_a_report_is_served_until_it_is_closed() -> None:
    """It is saved where the dashboard finds it, and the link names it."""
    shown = explore(made_report(name="org/tiny"))
    assert shown.url.startswith("http://127.0.0.1:")
    assert shown.url.endswith("/?report=org-tiny")
    assert shown.url in shown._repr_html_()
    assert "<title>probe</title>" in _answered(shown.url)
    shown.close()
    with pytest.raises(OSError, match=r"refused|reset by peer"):
        _answered(shown.url)


def test_a_saved_report_is_shown_where_it_lies(tmp_path: Path) -> None:
    """With what its folder kept, and nothing beside it."""
    made_report(name="one").save(tmp_path / "one")
    made_report(name="other").save(tmp_path / "other")
    shown = explore(tmp_path / "one")
    layout = json.loads(_answered(shown.url.partition("/?")[0] + "/_dash-layout"))
    assert layout["type"] == "MantineProvider"
    assert shown.url.endswith("/?report=one")
    shown.close()
