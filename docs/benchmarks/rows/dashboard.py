"""The dashboard in a browser, on a report of SmolLM2 at 8192 tokens: time to the first page, per interaction, bytes."""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Browser, Page, sync_playwright

LENGTH = 8192
FIGURE = ".js-plotly-plot:not(.dash-graph--pending) .main-svg"  # drawn, and answering to clicks
ROW = '.ag-row[row-id="L0.H2"]'
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
METRICS = ["entropy", "sink", "received", "distance", "previous_token", "waad", "future_influence"]


def measure(rounds: int) -> dict[str, object]:
    """Analyze in a process of its own, serve the report, and drive Debian's Chromium."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "long"
        asked = [part for metric in METRICS for part in ("--metric", metric)]
        text = Path(scratch) / "text.txt"
        text.write_text(_text())
        probe = str(Path(sys.executable).with_name("probe"))
        subprocess.run(
            [probe, "analyze", "--file", str(text), "--max-tokens", str(LENGTH), *asked,
             "--keep", "qk", "--out", str(folder)], check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        started = time.perf_counter()
        with _served(probe, "dashboard", scratch, "--port", "0") as url:
            up = time.perf_counter() - started
            least = str(Path(__file__).parents[1] / "least_page.py")
            with (
                _served(sys.executable, least, "plain") as plain,
                _served(sys.executable, least, "arranged") as arranged,
            ):
                return _table(up, _in_browser(url, rounds, {"plain": plain, "arranged": arranged}))


@contextmanager
def _served(*command: str) -> Iterator[str]:
    """The address that a server says it listens at, while it runs."""
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield _listening(server)
    finally:
        server.terminate()
        server.wait()


def _text() -> str:
    from probe.prompts import haystack

    return str(haystack())[: LENGTH * 8]


def _listening(server: subprocess.Popen[str]) -> str:
    for line in server.stderr or ():
        found = re.search(r"http://\S+", line)
        if found:
            return found[0]
    raise RuntimeError("the dashboard did not start")


def _in_browser(url: str, rounds: int, least: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"first": [], "table": [], "bytes": [], "largest": [], "steps": {}, "least": {}}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        for _ in range(rounds):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            sizes: list[int] = []
            page.on("requestfinished", lambda one, sizes=sizes: sizes.append(one.sizes()["responseBodySize"]))
            start = time.perf_counter()
            page.goto(f"{url}/?report=long")
            page.wait_for_selector(FIGURE)
            found["first"].append(time.perf_counter() - start)
            page.wait_for_selector(ROW)
            found["table"].append(time.perf_counter() - start)
            page.wait_for_load_state("networkidle")
            found["bytes"].append(sum(sizes))
            for what, step in STEPS.items():
                found["steps"].setdefault(what, []).append(_timed(page, step, url))
            page.wait_for_load_state("networkidle")
            found["largest"].append(max(sizes))
            context.close()
            for kind, there in least.items():
                for what, took in _least(browser, there).items():
                    found["least"].setdefault(f"{kind} {what}", []).append(took)
        browser.close()
    return found


def _least(browser: Browser, url: str) -> dict[str, float]:
    """Seconds to the first page of the least application, and to the map that its button gives."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    start = time.perf_counter()
    page.goto(url)
    page.wait_for_selector(FIGURE)
    first = time.perf_counter() - start
    page.wait_for_load_state("networkidle")
    large = f"document.querySelector('#large {FIGURE}')"
    step = _timed(page, lambda page, _url: Step(page.locator("#draw").click, large), url)
    context.close()
    return {"first": first, "step": step}


class Step(NamedTuple):
    """What a user does, and when the page shows it: a JavaScript expression over `arg`."""

    act: Callable[[], object]
    shown: str
    arg: object = None


# The first thing that happens in the page is what the user did: a click, or a key.
_LISTEN = """() => {
    window.since = null;
    const now = (event) => { window.since ??= event.timeStamp; };
    for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, now, {capture: true, once: true});
}"""


def _timed(page: Page, step: Callable[[Page, str], Step], url: str) -> float:
    """Seconds in the browser from what the user does to the frame in which the page shows it; `step` prepares."""
    act, shown, arg = step(page, url)
    page.evaluate(_LISTEN)
    act()
    seen = page.wait_for_function(f"(arg) => ({shown}) && performance.now() - window.since", arg=arg)
    return float(seen.json_value()) / 1000


def _settled(page: Page) -> None:
    """The overview as somebody finds it who has looked at it: its table is there, and nothing is under way."""
    page.wait_for_selector(ROW)
    page.wait_for_load_state("networkidle")


def _metric(page: Page, url: str) -> Step:
    page.goto(f"{url}/?report=long&metrics=entropy")
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot').length === 1")
    _settled(page)
    page.click("#overview-metrics")
    option = page.get_by_role("option", name="sink")
    option.wait_for()
    return Step(
        option.click,
        "[...document.querySelectorAll('.js-plotly-plot')].filter(p => p.querySelector('.main-svg')).length === 2",
    )


def _zoom(shown: str) -> Callable[[Page, str], Step]:
    """Type a range of queries; the map is drawn anew when its table has as many rows."""

    def step(page: Page, url: str) -> Step:
        page.goto(f"{url}/head?report=long&head=L18.H6&k={shown}")
        page.wait_for_selector(".token")
        page.wait_for_timeout(500)
        page.fill("#head-queries", shown)
        return Step(
            lambda: page.keyboard.press("Enter"),
            "[...document.querySelectorAll('.js-plotly-plot')].some(p =>"
            " p.data && p.data[0] && p.calcdata && p.calcdata[0][0].y &&"
            " Math.abs(p.calcdata[0][0].y[0] - arg[0]) <= 32)"
            " && document.querySelector('#head-queries').value === arg[1]",
            [int(shown.partition("-")[0]), shown],
        )

    return step


def _token(page: Page, url: str) -> Step:
    """Shaded by where the chosen token looks; the server's values have come when tokens say them on hover."""
    page.goto(f"{url}/head?report=long&head=L18.H6&by=where+the+chosen+token+looks")
    page.wait_for_selector(".token[data-at='200']")
    page.wait_for_timeout(500)
    return Step(
        lambda: page.click(".token[data-at='200']"),
        """document.querySelector(".token.chosen[data-at='200'][title*=':']")""",
    )


def _head(page: Page, url: str) -> Step:
    page.goto(f"{url}/?report=long")
    _settled(page)
    return Step(
        page.locator(f'{ROW} [col-id="layer"]').click,
        f"document.querySelector('.token') && document.querySelector('[id*=pattern] {FIGURE}')",
    )


STEPS: dict[str, Callable[[Page, str], Step]] = {
    "another metric on the overview": _metric,
    "from the table of heads to a head's page": _head,
    "zoom to 4096 × 4096 tokens": _zoom("4000-8096"),
    "zoom to 64 × 64 tokens": _zoom("8000-8064"),
    "choose a token of the text": _token,
}


def _table(up: float, found: dict[str, Any]) -> dict[str, object]:
    rounds = len(found["first"])

    def line(what: str, value: float, unit: str, budget: float | None) -> dict[str, object]:
        shape = {
            "n": LENGTH,
            "value": value,
            "unit": unit,
            "budget": budget,
            "better": "low",
            "rounds": rounds,
        }
        return {"what": what, **shape}

    def least(what: str) -> float:
        return statistics.median(found["least"][what])

    first = statistics.median(found["first"])
    steps = [
        line(what, 1000 * statistics.median(times), "ms", 300.0) for what, times in found["steps"].items()
    ]
    return {
        "title": "Dashboard on a report of SmolLM2-135M with queries and keys kept, in Chromium",
        "lines": [
            line("from the start of the command until it listens", up, "s", None),
            line("first page, from its address to its figures", first, "s", 1.5),
            line("the least page: Dash as it comes, one map of 2 × 2", least("plain first"), "s", None),
            line("the least page, with scripts loaded as here", least("arranged first"), "s", None),
            line("first page, from its address to its table", statistics.median(found["table"]), "s", None),
            *steps,
            line("the least page: from a button to a map", 1000 * least("arranged step"), "ms", None),
            line("first page, bytes sent (compressed)", statistics.median(found["bytes"]) / 1e6, "MB", 3.0),
            line("largest answer of a session (compressed)", max(found["largest"]) / 1e6, "MB", 2.0),
        ],
        "notes": [
            "medians over fresh browser contexts with an empty cache; a step lasts, by the browser's clock, from the "
            "event of the mouse or the key to the frame that shows what was asked",
            "the least page is docs/benchmarks/least_page.py: what Dash, Mantine and Plotly take on this machine for "
            "one map, whatever else is shown",
        ],
    }
