"""Pictures of every page of the dashboard, light and dark, wide and narrow.

    python docs/screens.py [--out docs/screens]

Analyzes two texts with SmolLM2-135M, serves the reports on 127.0.0.1 and drives Debian's Chromium. Needs the extras
`app` and `dev`, and the model `smollm2-135m`, fetched.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from playwright.sync_api import sync_playwright
from probe_app import create_app
from probe_app.serving import listen

TEXT = "The key to the mill lies under the third stone. It was a warm day. The key to the mill lies under the third"
SHAPES = {"wide": (1280, 900), "narrow": (390, 844)}
METRICS = ("entropy", "sink", "received", "previous_token", "induction", "waad", "future_influence")
PAGES = {
    "overview": "/?report=story",
    "head": "/head?report=story&head=L18.H6&q=96-150&k=60-150&by=received",
    "compare": "/compare?a=story&b=mill&metric=sink",
    "intervene": "/intervene",
    "run": "/run",
}


def analyzed(folder: Path) -> None:
    """Two reports, made by the command."""
    probe = str(Path(sys.executable).with_name("probe"))
    asked = [part for metric in METRICS for part in ("--metric", metric)]
    retrieval = ["--metric", "retrieval:lengths=500,depths=0.1+0.5+0.9,needles=2"]
    more = [*asked, *retrieval, "--metric", "thought_anchors"]
    story = ["--max-tokens", "512", "--keep", "qk", *more, "--out", str(folder / "story")]
    mill = ["--text", TEXT, *asked, "--out", str(folder / "mill")]
    for run in (mill, story):
        subprocess.run([probe, "analyze", *run], check=True, stdout=subprocess.DEVNULL)


def edited(page: Any, base: str) -> str:
    """Run an edit on the page for interventions; the address that shows what it did."""
    page.goto(f"{base}/intervene")
    page.wait_for_function("() => document.querySelector('#edit-report')?.value")
    for head in ("L18.H6", "L17.H3", "L18.H7", "L20.H6"):
        page.fill("#edit-heads", head)
        page.keyboard.press("Enter")
    page.click("#edit-start")
    page.wait_for_selector("#edit-shown .figure", timeout=300_000)
    return str(page.url).removeprefix(base)


def main() -> int:
    """Take every picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "screens")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        analyzed(Path(scratch) / "reports")
        models = os.environ.get("PROBE_HOME")
        os.environ["PROBE_HOME"] = models or scratch
        server = listen(create_app([Path(scratch) / "reports"], "127.0.0.1"), "127.0.0.1", 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        page = browser.new_page()
        addresses = {**PAGES, "intervene": edited(page, base)}
        for shape, (width, height) in SHAPES.items():
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                _pictures(context.new_page(), base, addresses, out, f"{shape}-{scheme}")
                context.close()
        browser.close()
        server.shutdown()
    return 0


def _pictures(page: Any, base: str, addresses: dict[str, str], out: Path, kind: str) -> None:
    for name, address in addresses.items():
        page.goto(base + address)
        page.wait_for_selector("#page label")
        page.wait_for_selector(".ag-row") if name == "overview" else None
        page.wait_for_load_state("networkidle") if name not in ("run", "intervene") else None
        page.wait_for_timeout(1500)
        # As high as the page: Chromium leaves tables blank that lie below the screen.
        width, shown = page.viewport_size["width"], page.viewport_size["height"]
        height = page.evaluate("() => document.documentElement.scrollHeight")
        page.set_viewport_size({"width": width, "height": max(height, shown)})
        page.wait_for_timeout(700)
        page.screenshot(path=out / f"{name}-{kind}.png")
        page.set_viewport_size({"width": width, "height": shown})


if __name__ == "__main__":
    sys.exit(main())
