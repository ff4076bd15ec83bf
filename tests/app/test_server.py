"""What the server says of itself, and whom it answers."""

import subprocess
import sys
from pathlib import Path

import pytest
from probe_app import create_app
from probe_app.security import HEADERS, LARGEST_UPLOAD, is_loopback


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return create_app([tmp_path_factory.mktemp("none")], "127.0.0.1").server.test_client()


def test_every_answer_has_the_headers(client) -> None:  # type: ignore[no-untyped-def]
    """Pages, callbacks, assets and errors."""
    for path in ("/", "/_dash-layout", "/_dash-dependencies", "/nothing/here", "/assets/none.js"):
        answer = client.get(path)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


@pytest.mark.parametrize(
    "path", ["/assets/../command.py", "/assets/%2e%2e/command.py", "/assets//etc/passwd"]
)
def test_assets_stay_in_their_folder(client, path: str) -> None:  # type: ignore[no-untyped-def]
    """No file outside is handed out."""
    assert b"def dashboard" not in client.get(path).data


def test_another_name_is_refused(client) -> None:  # type: ignore[no-untyped-def]
    """A loopback server answers to loopback names alone (DNS rebinding)."""
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/", headers={"Host": "localhost:8050"}).status_code == 200


def test_other_sites_change_nothing(client) -> None:  # type: ignore[no-untyped-def]
    """A form of another site is refused."""
    answer = client.post("/_dash-update-component", json={}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


def test_other_sites_may_lead_here_and_embed_nothing(client) -> None:  # type: ignore[no-untyped-def]
    """A link is followed; an image or a frame of another site cannot keep the machine busy."""
    for what, status in (("document", 200), ("image", 403), ("iframe", 403), ("empty", 403)):
        asked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": what}
        assert client.get("/", headers=asked).status_code == status, what
        assert client.get("/_page/", headers=asked).status_code == status, what


def test_large_requests_are_refused(client) -> None:  # type: ignore[no-untyped-def]
    """Before they are read."""
    answer = client.post(
        "/_dash-update-component", data=b"x" * (LARGEST_UPLOAD + 1), content_type="application/json"
    )
    assert answer.status_code == 413


def test_no_debugger(client) -> None:  # type: ignore[no-untyped-def]
    """The console of a debugging server is not there."""
    answer = client.get("/?__debugger__=yes&cmd=resource&f=debugger.js")
    assert answer.mimetype == "text/html"
    assert b"react-entry-point" in answer.data
    assert b"EVALEX" not in answer.data


def test_loopback() -> None:
    """What counts as this machine alone."""
    assert is_loopback("127.0.0.1")
    assert not is_loopback("0.0.0.0")  # noqa: S104


def test_answers_are_compressed(client) -> None:  # type: ignore[no-untyped-def]
    """Scripts and layouts go out compressed."""
    answer = client.get("/_dash-layout", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"


def test_a_report_needs_no_torch(reports: Path) -> None:
    """Starting and drawing load neither torch nor transformers."""
    code = (
        "import sys; from pathlib import Path; import probe_app; "
        f"app = probe_app.create_app([Path({str(reports)!r})]); "
        "from probe_app.pages import PAGES; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
