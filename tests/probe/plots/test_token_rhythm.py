"""The two signals of a response as a picture."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from made_reports import made_answer

from probe.errors import ReportError
from probe.plots import token_rhythm
from probe.report import Answer

NAN = np.nan


@pytest.fixture
def answer() -> Answer:
    """A response of tokens 1 to 4; the last has no FAI."""
    signals = {
        "waad": [NAN, 1.0, 5.0, 2.0, 1.0],
        "fai": [NAN, 0.1, 0.2, 0.1, NAN],
        "peak:waad": [NAN, 0.0, 1.0, 0.0, 0.0],
        "peak:fai": [NAN, 0.0, 1.0, 0.0, NAN],
    }
    extra = {
        name: xr.DataArray([values], {"prompt": ["<p>"], "token": range(5)}, ("prompt", "token"))
        for name, values in signals.items()
    }
    return replace(made_answer("rhythm"), extra=extra)


def test_lines_and_peaks_are_where_they_belong(answer: Answer) -> None:
    """WAAD above FAI over the response's own tokens, a gap where undefined, marks at the peaks."""
    waad, waad_peaks, fai, fai_peaks = token_rhythm(answer, tokens=list("pq<rs")).data
    assert list(waad.x) == list(fai.x) == [1, 2, 3, 4]
    assert list(waad.y) == [1.0, 5.0, 2.0, 1.0]
    assert list(fai.y) == [0.1, 0.2, 0.1, None]
    assert (list(waad_peaks.x), list(waad_peaks.y)) == ([2], [5.0])
    assert (list(fai_peaks.x), list(fai_peaks.y)) == ([2], [0.2])
    assert list(waad.text) == ["q", "&lt;", "r", "s"]
    assert waad.yaxis != fai.yaxis


def test_the_title_is_safe(answer: Answer) -> None:
    """The spec and the prompt's id, escaped, unless another is given."""
    assert token_rhythm(answer).layout.title.text == "rhythm · &lt;p&gt;"
    assert token_rhythm(answer, title="rhythm").layout.title.text == "rhythm"


def test_what_is_not_there_is_refused(answer: Answer) -> None:
    """Another answer, another prompt, too few texts."""
    with pytest.raises(ReportError, match="has no waad"):
        token_rhythm(made_answer("entropy"))
    with pytest.raises(ReportError, match="prompt 1 was asked; there are 1"):
        token_rhythm(answer, prompt=1)
    with pytest.raises(ReportError, match="3 tokens were given; the response ends at token 4"):
        token_rhythm(answer, tokens=list("abc"))
