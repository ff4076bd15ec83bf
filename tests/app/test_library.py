"""Reports are found in the folders that were given, by name, and nothing else is read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_reports import made_report
from probe_app.library import Library, check_folders

from probe.errors import ReportError


def test_reports_are_listed_newest_first_and_opened_once(tmp_path: Path) -> None:
    """A folder that holds reports and one that is a report are both shelves; names are told apart."""
    made_report(name="one").save(tmp_path / "many" / "run")
    made_report(name="two").save(tmp_path / "other" / "run")
    library = Library([tmp_path / "many", tmp_path / "other" / "run"])
    assert sorted(library.names()) == ["run", "run (2)"]
    models = {library.open(name).provenance.model.name for name in library.names()}
    assert models == {"one", "two"}
    assert library.open("run") is library.open("run")


def test_a_report_written_anew_is_read_anew(tmp_path: Path) -> None:
    """What is open is dropped when the file changes."""
    made_report(name="before").save(tmp_path / "run")
    library = Library([tmp_path])
    assert library.open("run").provenance.model.name == "before"
    made_report(name="after").save(tmp_path / "run", replace=True)
    assert library.open("run").provenance.model.name == "after"


@pytest.mark.parametrize(
    "name", ["../secret", "/etc", "run/../../secret", "secret", "..", "", "run\0", "file:///etc/passwd"]
)
def test_paths_reach_nothing(tmp_path: Path, name: str) -> None:
    """A name that is not listed is refused, whatever lies where it points."""
    made_report().save(tmp_path / "shown" / "run")
    made_report().save(tmp_path / "secret")
    library = Library([tmp_path / "shown"])
    with pytest.raises(ReportError, match="none of that name"):
        library.open(name)


@given(st.text())
def test_no_text_reaches_a_file(name: str) -> None:
    """Whatever the browser says is refused where no report has that name."""
    with pytest.raises(ReportError):
        Library([]).kept(name)


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    """A link to a report elsewhere is not listed."""
    made_report().save(tmp_path / "elsewhere")
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "link").symlink_to(tmp_path / "elsewhere")
    assert Library([tmp_path / "shown"]).names() == []


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Before the server starts."""
    with pytest.raises(ReportError, match="no folder"):
        check_folders([tmp_path / "nothing"])
