"""The dashboard in a real browser: every page, what is clicked, and nothing in the console."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probe_app.figures import values
from small_models import letters, llama

import probe

TEXT = "the cat sat on the mat. the dog sat on the log. the cat sat on the dog."
SECOND = 1000
FIGURE = ".js-plotly-plot:not(.dash-graph--pending) .main-svg"  # drawn, and answering to clicks


@pytest.fixture
def page(chromium: Any, served: str) -> Iterator[Any]:
    """A page whose console must stay silent."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, base_url=served)
    page = context.new_page()
    page.set_default_timeout(20 * SECOND)
    said: list[str] = []
    page.on("console", lambda one: said.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}") or dialog.dismiss())
    page.said, page.home = said, served
    yield page
    context.close()
    assert said == []


def figure_of(page: Any, name: str) -> Any:
    """What a graph of that name draws."""
    return page.evaluate(
        """name => { const all = [...document.querySelectorAll('.dash-graph')];
                     const one = all.find(e => e.id.includes('"' + name + '"'));
                     const plot = one && one.querySelector('.js-plotly-plot');
                     return plot && plot.data ? plot.data.map(t => ({...t, z: t.z && t.z.length})) : null; }""",
        name,
    )


def test_every_page_opens_and_the_menu_leads_there(page: Any) -> None:
    """From page to page without loading anew."""
    page.goto("/?report=exact")
    page.wait_for_selector(FIGURE)
    for title, there in (("Head", "#head-name"), ("Compare", "#compare-one"), ("Intervene", "#edit-start"),
                         ("Run", "#run-start"), ("Overview", "#overview-report")):  # fmt: skip
        page.get_by_role("link", name=re.compile(f"^{title}")).click()
        page.wait_for_selector(there)
    page.goto("/no/such/page")
    page.wait_for_selector("#missing")


def test_metrics_are_chosen_and_the_address_says_so(page: Any) -> None:
    """The address of a view gives the same view again, and back goes back."""
    page.goto("/?report=exact&metrics=waad")
    page.wait_for_selector(FIGURE)
    assert figure_of(page, "waad")
    assert figure_of(page, "entropy") is None
    page.click("#overview-metrics")
    page.get_by_role("option", name="sink").click()
    page.wait_for_function("() => location.search.includes('sink')")
    shared = page.url
    page.goto("/?report=pooled&metrics=entropy")
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot').length === 1")
    page.go_back()
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot').length === 2")
    page.goto(shared)
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot').length === 2")


def test_metrics_that_are_not_shown_are_named(page: Any) -> None:
    """One that the report does not have; it stays in the address, and the note with it, until others are chosen."""
    page.goto("/?report=exact&metrics=waad%7Cno_such_metric")
    page.wait_for_selector("#left-out:has-text('no_such_metric')")
    page.wait_for_load_state("networkidle")
    assert "no_such_metric" in page.url
    assert "no_such_metric" in page.inner_text("#left-out")
    page.click("#overview-metrics")
    page.get_by_role("option", name="sink").click()
    page.wait_for_selector("#left-out", state="detached")
    assert "no_such_metric" not in page.url


def test_a_page_that_has_no_answer_says_so(page: Any) -> None:
    """Where the server has ended, or fails: the way on is told, and other pages still open once it is back."""
    page.goto("/?report=exact")
    page.wait_for_selector(FIGURE)
    page.route("**/_page/**", lambda route: route.fulfill(status=503))
    page.get_by_role("link", name=re.compile("^Head")).click()
    page.wait_for_selector("#problem:has-text('503')")
    page.unroute("**/_page/**")
    page.get_by_role("link", name=re.compile("^Overview")).click()
    page.wait_for_selector("#overview-report")
    assert page.said.pop()  # the browser itself notes the status


def test_the_first_page_is_asked_for_once(page: Any) -> None:
    """What the document asks for ahead is what the scripts take."""
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url.partition(page.home)[2]))
    page.goto("/head?report=exact&head=L1.H3&by=entropy&q=0-8")
    page.wait_for_selector(FIGURE)
    page.wait_for_load_state("networkidle")
    pages = [one for one in asked if one.startswith("/_page")]
    assert pages == ["/_page/head?report=exact&head=L1.H3&by=entropy&q=0-8"]
    assert sum(one.startswith(("/_dash-layout", "/_dash-dependencies")) for one in asked) == 2


def test_a_head_is_opened_from_the_map_and_from_the_table(page: Any) -> None:
    """A click on a cell, or on a row."""
    page.goto("/?report=exact&metrics=entropy")
    page.wait_for_selector(FIGURE)
    box = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9)
    page.wait_for_url("**/head?**head=L1.H3**")
    page.go_back()
    # The page comes back with a table of its own, whose script is loaded after the figures.
    page.wait_for_selector('.ag-row[row-id="L0.H2"] [col-id="layer"]', timeout=60_000)
    page.locator('.ag-row[row-id="L0.H2"] [col-id="layer"]').click()
    page.wait_for_url("**/head?**head=L0.H2**")
    page.wait_for_selector("#tokens .token")
    page.go_back()
    cell = page.locator('.ag-row[row-id="L0.H1"] [col-id="layer"]')
    cell.wait_for(timeout=60_000)
    cell.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/head?**head=L0.H1**")
    page.wait_for_selector("#tokens .token")


def test_of_two_heads_that_are_opened_at_once_the_second_is_shown(page: Any) -> None:
    """The answer about the first comes when the address names the second already."""
    page.goto("/?report=exact&metrics=entropy")
    page.wait_for_selector(".ag-row", timeout=60_000)
    page.wait_for_load_state("networkidle")
    for name in ("L0.H1", "L0.H2"):
        page.evaluate(
            "name => document.querySelector(`.ag-row[row-id='${name}'] [col-id='layer']`).click()", name
        )
    page.wait_for_selector("#tokens .token")
    page.wait_for_function("() => document.querySelector('#head-name').value === 'L0.H2'")
    assert "head=L0.H2" in page.url


def test_a_map_that_is_there_is_not_drawn_anew_beside_another(page: Any) -> None:
    """Of two maps the second alone is drawn when it is added, and the first answers to clicks as before."""
    page.goto("/?report=exact&metrics=entropy")
    page.wait_for_selector(FIGURE)
    page.wait_for_selector(".ag-row")
    page.evaluate(
        """() => { const first = document.querySelector(".js-plotly-plot");
                   first.again = 0;
                   first.on("plotly_afterplot", () => { first.again += 1; }); }"""
    )
    page.click("#overview-metrics")
    page.get_by_role("option", name="sink").click()
    page.wait_for_function(f"() => document.querySelectorAll('figure:has({FIGURE})').length === 2")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.querySelector('.js-plotly-plot').again") == 0  # and it is the same element
    page.keyboard.press("Escape")
    box = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9)
    page.wait_for_url("**/head?**head=L1.H3**")


def test_the_table_sorts_and_is_copied(page: Any, chromium: Any) -> None:
    """Sorted by a column, the first row is its largest value."""
    page.goto("/?report=exact")
    page.wait_for_selector(".ag-row")
    page.locator('.ag-header-cell[col-id="m:sink"] .ag-header-cell-text').click()
    page.wait_for_function(
        """() => { const cells = [...document.querySelectorAll('.ag-row [col-id="m:sink"]')]
                     .sort((a, b) => a.closest('.ag-row').ariaRowIndex - b.closest('.ag-row').ariaRowIndex)
                     .map(c => Number(c.textContent));
                   return cells.length > 3 && cells.every((v, i) => i === 0 || cells[i - 1] >= v); }"""
    )


def test_a_zoom_to_single_tokens_is_the_pattern(page: Any) -> None:
    """The value under the mouse is the attention that was computed."""
    torch.manual_seed(0)
    captured = probe.capture((llama(), letters()), TEXT, ["pattern"], layers=[1], heads=[2])["pattern"]
    true = np.asarray(captured.values[0, 0])
    page.goto("/head?report=exact&head=L1.H2&q=20-24&k=16-24")
    page.wait_for_selector(FIGURE)
    page.wait_for_function("() => document.querySelector('#head-queries').value === '20-24'")
    drawn = page.evaluate(
        "() => [...document.querySelectorAll('.js-plotly-plot')]"
        ".map(p => p.calcdata && p.data[0] && p.data[0].customdata)"
    )
    shown = np.array(values(next(filter(None, drawn))), dtype=np.float64)
    np.testing.assert_allclose(shown, true[20:24, 16:24], atol=2e-3)
    page.get_by_role("button", name="Whole map").click()
    page.wait_for_function("() => !location.search.includes('q=')")


def test_a_drag_over_the_map_zooms_and_a_double_click_ends_it(page: Any) -> None:
    """The ranges that were dragged over go into the address, those of queries and those of keys."""
    page.goto("/head?report=exact&head=L1.H2")
    page.wait_for_selector(FIGURE)
    box = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    at = [(box["x"] + box["width"] * part, box["y"] + box["height"] * part) for part in (0.25, 0.75)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=5)
    page.mouse.up()
    page.wait_for_function("() => /q=\\d+-\\d+/.test(location.search) && /k=\\d+-\\d+/.test(location.search)")
    page.wait_for_function("() => /^1\\d-5\\d$/.test(document.querySelector('#head-queries').value)")
    page.wait_for_timeout(SECOND)
    page.mouse.dblclick((at[0][0] + at[1][0]) / 2, (at[0][1] + at[1][1]) / 2)
    page.wait_for_function("() => !location.search.includes('q=')")


def test_hovering_a_token_shows_where_it_looks(page: Any) -> None:
    """In the browser alone; a click chooses it, and so does the keyboard."""
    page.goto("/head?report=exact&head=L1.H2")
    page.wait_for_selector(".token[data-at='30']")
    page.hover(".token[data-at='30']")
    shades = page.evaluate(
        "() => [...document.querySelectorAll('.token')].map(t => Number(t.style.getPropertyValue('--shade')))"
    )
    assert max(shades[31:]) == 0
    assert max(shades[:31]) > 0.1
    page.click(".token[data-at='30']")
    page.wait_for_selector(".token.chosen[data-at='30']")
    page.wait_for_url("**at=30**")
    page.focus(".token[data-at='5']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector(".token.chosen[data-at='6']")


def test_two_reports_are_compared(page: Any) -> None:
    """Maps, difference, scatter and numbers."""
    page.goto("/compare?a=exact&b=pooled&metric=sink")
    page.wait_for_selector("text=Ranks that moved most")
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot').length === 4")
    assert all(figure_of(page, name) for name in ("first", "second", "difference", "scatter"))
    page.goto("/compare?a=exact&b=hostile")
    page.wait_for_selector("#problem")


def test_a_broken_report_is_told_and_others_still_open(page: Any) -> None:
    """An error in words, not a blank page."""
    page.goto("/?report=broken")
    page.wait_for_selector("#problem")
    page.goto("/?report=../../etc")
    page.wait_for_selector("#problem")
    page.goto("/head?report=exact&head=L9.H9")
    page.wait_for_selector("#problem")
    page.goto("/?report=exact")
    page.wait_for_selector(FIGURE)


def test_markup_in_a_report_is_text(page: Any) -> None:
    """Names of models and metrics run nothing and draw no images."""
    page.goto("/?report=hostile")
    page.wait_for_selector(FIGURE)
    page.wait_for_timeout(SECOND / 2)
    assert "<img src=x" in page.inner_text("#overview-facts")
    assert page.locator("main img[src='x']").count() == 0
    page.goto("/?report=<img src=x onerror=alert(3)>")
    page.wait_for_selector("#problem")
    assert page.locator("main img[src='x']").count() == 0


def test_figures_are_saved(page: Any) -> None:
    """As a picture by the browser, as numbers by the server."""
    page.goto("/?report=exact&metrics=entropy")
    page.wait_for_selector(FIGURE)
    for entry, ending in (("Numbers (CSV)", ".csv"), ("Picture (SVG)", ".svg"), ("Picture (PNG)", ".png")):
        page.get_by_role("button", name="Save Map of entropy").click()
        with page.expect_download() as download:
            page.get_by_role("menuitem", name=entry).click()
        assert download.value.suggested_filename == f"entropy{ending}"
        if ending == ".csv":
            assert Path(download.value.path()).read_text().startswith("y,x,value")


def test_a_map_is_laid_over_an_image(page: Any) -> None:
    """Heads of a vision tower have patches; a picture of the reader's lies below them, and no other file does."""
    page.goto("/head?report=image&head=vision.L0.H1")
    page.wait_for_selector("#head-patches .js-plotly-plot .main-svg")
    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    )
    chooser = page.locator("#head-patches input")
    chooser.set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": pixel})
    page.wait_for_selector("#head-patches .imagelayer image, #head-patches .layer-below image")
    chooser.set_input_files({"name": "y.png", "mimeType": "image/png", "buffer": b"<svg onload=alert(1)>"})
    page.wait_for_selector("#head-patches #problem")


@pytest.mark.parametrize("model", ["tiny-llama", "smollm2-135m"])
def test_an_intervention_runs_from_end_to_end(page: Any, model: str, request: pytest.FixtureRequest) -> None:
    """Heads, an edit, three texts, divergence, and the attention before and after."""
    if model == "smollm2-135m":
        request.getfixturevalue("smollm2")
    page.goto("/intervene")
    page.wait_for_selector("#edit-start")
    page.wait_for_function("() => document.querySelector('#edit-report').value !== ''")
    page.fill("#edit-model", model)
    page.fill("#edit-text", TEXT)
    page.fill("#edit-heads", "L1.H2")
    page.keyboard.press("Enter")
    page.fill("#edit-new", "4")
    page.click("#edit-start")
    page.wait_for_selector('.job[data-state="done"]', timeout=180 * SECOND)
    page.wait_for_selector("#edit-shown .figure")
    assert page.locator(".token.written").count() > 4
    page.get_by_role("link", name="Attention before and after").click()
    page.wait_for_selector("text=Ranks that moved most")


def test_a_run_is_started_cancelled_and_finished(page: Any) -> None:
    """Progress is shown; a cancelled run ends; a finished one opens."""
    page.goto("/run")
    page.wait_for_selector("#run-start")
    page.fill("#run-text", TEXT)
    page.click("#run-start")
    page.get_by_role("button", name="Cancel").first.click()
    page.wait_for_selector('.job[data-state="cancelled"]', timeout=30 * SECOND)
    page.click("#run-start")
    page.wait_for_selector('.job[data-state="done"] a', timeout=120 * SECOND)
    page.locator('.job[data-state="done"] a').first.click()
    page.wait_for_selector(FIGURE)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    "path", ["/?report=exact", "/head?report=exact", "/compare?a=exact&b=pooled", "/intervene", "/run"]
)
def test_nothing_is_wider_than_the_screen(page: Any, path: str, width: int) -> None:
    """At 1280 px and on a narrow screen nobody scrolls sideways."""
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(path)
    page.wait_for_selector("#page label")
    page.wait_for_timeout(SECOND)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
