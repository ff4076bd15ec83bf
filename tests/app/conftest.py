"""A dashboard over a few reports, one of them with queries and keys kept, and a browser to look at it."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made_reports import made_answer, made_map, made_report
from probe_app import create_app
from probe_app.serving import listen
from small_models import letters, llama, vit

import probe

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
TEXT = "the cat sat on the mat. the dog sat on the log. the cat sat on the dog."


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    torch.manual_seed(0)
    llama().save_pretrained(folder)
    letters().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports: ``exact`` (queries and keys), ``pooled`` (a map), ``hostile`` (markup everywhere), ``broken``."""
    folder = tmp_path_factory.mktemp("reports")
    torch.manual_seed(0)
    pair = (llama(), letters())
    metrics = ["entropy", "sink", "received", "waad"]
    probe.analyze(pair, TEXT, metrics, out=folder / "exact", keep="qk")
    probe.analyze(pair, TEXT[::-1].strip(), metrics, out=folder / "pooled", keep="map")
    hostile = made_report(
        made_answer(f"entropy:x={HOSTILE}", made_map([[0.1, 0.9], [0.2, 0.4]])), name=HOSTILE
    )
    hostile.save(folder / "hostile")
    probe.analyze(pair, TEXT, ["entropy"], out=folder / "broken")
    image = {"pixel_values": torch.rand(1, 3, 32, 32)}
    probe.analyze(vit(), image, ["received", "entropy"], out=folder / "image")
    (folder / "broken" / "arrays.safetensors").write_bytes(b"\0" * 64)
    return folder


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs and jobs of the dashboard go."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def served(reports: Path, home: Path, tiny_model: Path) -> Iterator[str]:
    """The address of a running dashboard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROBE_HOME", str(home))
        app = create_app([reports], "127.0.0.1", [tiny_model])
    server = listen(app, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()
