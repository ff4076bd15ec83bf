"""Which scripts the first page loads."""

from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs_version
from probe_app import create_app
from probe_app.index import PLOTLY, arranged, fits


def test_the_part_of_plotly_that_is_shipped_fits_the_installed_one(tmp_path: Path) -> None:
    """It is in the page once, says its version itself, and comes with its licence."""
    if not fits(get_plotlyjs_version()):
        pytest.skip("another major version of plotly is installed, and all of it is loaded")
    page = create_app([tmp_path]).server.test_client().get("/").text
    assert page.count(PLOTLY) == 1
    script = create_app([tmp_path]).server.test_client().get(f"/assets/{PLOTLY}").text
    assert f"v{PLOTLY.removeprefix('plotly-cartesian-').removesuffix('.min.js')}" in script[:200]
    assert "MIT" in script[:300]


def test_the_grid_is_only_announced() -> None:
    """The other scripts stay in their order."""
    tags = '<script src="/a.js"></script>\n<script src="/x/dash_ag_grid/g.js"></script>\n<script src="/b.js"></script>'
    found = arranged(tags)
    assert '<script src="/x/dash_ag_grid' not in found
    assert 'href="/x/dash_ag_grid/g.js"' in found
    assert found.index("/a.js") < found.index("/b.js")
