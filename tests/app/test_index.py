"""Which scripts the first page loads."""

import re
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs_version
from probe_app import create_app
from probe_app.index import PLOTLY, REGENERATOR, arranged, fits

ROOT = Path(__file__).parents[2]


def test_the_part_of_plotly_that_is_shipped_fits_the_installed_one(tmp_path: Path) -> None:
    """It is in the page once, says its version itself, and comes with its licence."""
    if not fits(get_plotlyjs_version()):
        pytest.skip("another major version of plotly is installed, and all of it is loaded")
    page = create_app([tmp_path]).server.test_client().get("/").text
    assert page.count(PLOTLY) == 1
    script = create_app([tmp_path]).server.test_client().get(f"/assets/{PLOTLY}").text
    assert f"v{PLOTLY.removeprefix('plotly-figures-').removesuffix('.min.js')} " in script[:200]
    assert "MIT" in script[:300]


def test_the_part_of_plotly_draws_all_that_figures_are_made_of() -> None:
    """Traces of the figures are those that the bundle registers, besides scatter, which every part has."""
    drawn = {
        kind.lower()
        for source in (ROOT / "probe" / "plots").glob("*.py")
        for kind in re.findall(r"\bgo\.([A-Z]\w+)\(", source.read_text())
    } - {"figure"}
    registered = re.findall(r"plotly\.js/lib/(\w+)", (ROOT / "app/plotly_bundle/figures.cjs").read_text())
    assert drawn <= {"scatter", *registered}
    assert "heatmap" in drawn


def test_of_the_polyfill_only_what_dash_uses_is_loaded(tmp_path: Path) -> None:
    """The regenerator takes its place, before all others."""
    client = create_app([tmp_path]).server.test_client()
    scripts = re.findall(r'<script src="([^"]+)"', client.get("/").text)
    assert not any("polyfill" in one for one in scripts)
    assert REGENERATOR in scripts[0]
    assert "regeneratorRuntime" in client.get(scripts[0]).text


def test_the_grid_is_only_announced() -> None:
    """The other scripts stay in their order."""
    tags = '<script src="/a.js"></script>\n<script src="/x/dash_ag_grid/g.js"></script>\n<script src="/b.js"></script>'
    found = arranged(tags, "/r.js")
    assert '<script src="/x/dash_ag_grid' not in found
    assert 'href="/x/dash_ag_grid/g.js"' in found
    assert found.index("/a.js") < found.index("/b.js")
