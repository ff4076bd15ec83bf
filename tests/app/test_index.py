"""Which scripts the first page loads."""

import re
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from flask import Request
from plotly.offline import get_plotlyjs_version
from probe_app import create_app, index
from probe_app.index import CONTENT, PLOTLY, arranged, fits
from probe_app.scripts import Squeezed, join

ROOT = Path(__file__).parents[2]


def scripts(folder: Path) -> list[str]:
    """The texts of the scripts that the first page names, in their order."""
    client = create_app([folder]).server.test_client()
    return [client.get(one).text for one in re.findall(r'<script src="([^"]+)"', client.get("/").text)]


def test_the_part_of_plotly_that_is_shipped_fits_the_installed_one(tmp_path: Path) -> None:
    """It is in the page once, says its version itself, and comes with its licence."""
    if not fits(get_plotlyjs_version()):
        pytest.skip("another major version of plotly is installed, and all of it is loaded")
    (plotly,) = [one for one in scripts(tmp_path) if "/*! plotly.js" in one]
    assert f"v{PLOTLY.removeprefix('plotly-figures-').removesuffix('.min.js')} " in plotly[:200]
    assert "MIT" in plotly[:300]


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
    first = scripts(tmp_path)[0]
    assert "regeneratorRuntime" in first
    assert (
        first.index("regeneratorRuntime")
        < first.index("react.production.min.js")
        < first.index("DashRenderer")
    )


def test_scripts_are_few_and_have_the_note_to_compile_them_ahead(tmp_path: Path) -> None:
    """Three: React with Dash and its components, Mantine, Plotly; the browser honours the note in the first line."""
    found = scripts(tmp_path)
    assert len(found) <= 3
    assert all(one.startswith("//# allFunctionsCalledOnLoad\n") for one in found)
    assert "window.dash_clientside.probe" in found[0]
    assert "webpackChunkdash_core_components" in found[0]
    assert "dash_mantine_components" in found[1]


def test_a_script_that_is_kept_is_another_one_once_its_text_changes() -> None:
    """Its address has its text in it, and stays in the folder where the script finds its other parts."""
    one, other = join("/a/b/c.js?m=1", [b"x()", b"y()"]), join("/a/b/c.js?m=1", [b"x()", b"z()"])
    assert one.path.rpartition("/")[0] == other.path.rpartition("/")[0] == "/a/b"
    assert one.path != other.path
    assert one.text.endswith(b"x()\n;\ny()")
    assert "immutable" in one.answer().headers["Cache-Control"]


def test_scripts_are_for_those_who_may_ask(tmp_path: Path) -> None:
    """The check of the host comes first."""
    client = create_app([tmp_path], "127.0.0.1").server.test_client()
    path = re.findall(r'<script src="([^"]+)"', client.get("/").text)[0]
    assert client.get(path, headers={"Host": "elsewhere.example"}).status_code == 403
    assert client.get(f"{CONTENT}/", headers={"Host": "elsewhere.example"}).status_code == 403


def test_scripts_are_compressed_once_and_other_answers_are_not_kept(tmp_path: Path) -> None:
    """What a page shows may have changed by the next time."""
    app = create_app([tmp_path])
    client = app.server.test_client()
    path = re.findall(r'<script src="([^"]+)"', client.get("/").text)[0]
    squeezed = client.get(path, headers={"Accept-Encoding": "gzip"})
    assert squeezed.headers["Content-Encoding"] == "gzip"
    assert len(squeezed.data) < len(client.get(path).data) / 2
    assert client.get(path, headers={"Accept-Encoding": "gzip"}).data == squeezed.data
    told = client.get(f"{CONTENT}/")
    assert told.headers["Cache-Control"] == "no-store"
    assert app.server.config["COMPRESS_CACHE_KEY"](Request({"PATH_INFO": "/dash_renderer-made-up"})) == ""
    kept = Squeezed()
    for key in ("gzip;", f"gzip;{path}"):
        kept.set(key, b"text")
    assert (kept.get("gzip;"), kept.get(f"gzip;{path}")) == (None, b"text")


SUITES = ("dash/deps/polyfill@7.js", "dash/deps/react@18.js", "dash_mantine_components/m.js", "dash_ag_grid/g.js",
          "dash/dash_table/t.js", "dash/dcc/dash_core_components.v1.js", "other/o.js", "dash/html/h.js")  # fmt: skip


def tags(*left_out: str) -> str:
    """A page's scripts as Dash names them."""
    paths = [f"/_dash-component-suites/{one}" for one in SUITES if one not in left_out]
    return "\n".join(f'<script src="{one}"></script>' for one in [*paths, "/assets/probe.js?m=1"])


def test_scripts_are_sorted() -> None:
    """Those of Dash stay in their order, what no page uses is left out, and what somebody else imported stays."""
    found = arranged(tags(), "/r.js")
    start = "/_dash-component-suites/dash/"
    assert found.first == ["/r.js", f"{start}deps/react@18.js", f"{start}dcc/dash_core_components.v1.js",
                           f"{start}dcc/async-graph.js", f"{start}html/h.js", "/assets/probe.js?m=1"]  # fmt: skip
    assert found.dcc == f"{start}dcc/dash_core_components.v1.js"
    assert found.mantine.endswith("/m.js")
    assert found.grid.endswith("/g.js")
    assert found.others == ["/_dash-component-suites/other/o.js"]


def test_a_dash_with_other_scripts_still_serves_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are loaded as Dash names them, and the log says which one was looked for."""
    with pytest.raises(LookupError, match="dcc/dash_core_components"):
        arranged(tags("dash/dcc/dash_core_components.v1.js"), "/r.js")
    monkeypatch.setattr(index, "_GRAPHS", "no-such-part.js")
    page = create_app([tmp_path]).server.test_client().get("/").text
    assert "/dcc/dash_core_components." in page
    assert "no-such-part.js" in caplog.text


@pytest.mark.parametrize("address", ["/?report=a%26b", "/head?report=r&metric=sink%3An%3D4%7Centropy"])
def test_what_the_first_page_will_ask_for_is_asked_for_at_once(address: str, tmp_path: Path) -> None:
    """By the same address, letter by letter: else a browser would ask twice."""
    page = create_app([tmp_path]).server.test_client().get(address).text
    asked = [unescape(one) for one in re.findall(r'rel="preload" as="fetch"[^>]* href="([^"]+)"', page)]
    assert asked == [f"{CONTENT}{address}", "/_dash-layout", "/_dash-dependencies"]


@pytest.mark.parametrize("mark", ['"><script>alert(1)</script>', "{%config%}", "'><img src=x>", "&quot;>"])
def test_an_address_is_no_markup(mark: str, tmp_path: Path) -> None:
    """Whatever stands in it, in its path or behind it, stays within its attribute."""
    client = create_app([tmp_path]).server.test_client()
    for page in (client.get(f"/{quote(mark)}").text, client.get("/", query_string=f"report={mark}").text):
        (link,) = re.findall(rf'<link rel="preload"[^>]* href="({CONTENT}[^"]*)">', page)
        assert not set(link) & set("<>{}")
        assert mark not in page
