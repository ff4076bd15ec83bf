"""The report in a notebook."""

from html.parser import HTMLParser

import numpy as np
from made_reports import made_answer, made_map, made_report

HOSTILE = '"><script>alert(1)</script><img src=http://x onerror=y>'


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.attributes += [name for name, _ in attrs]


def _tags(html: str) -> _Tags:
    parser = _Tags()
    parser.feed(html)
    return parser


def test_hostile_names_stay_text() -> None:
    """Nothing in a report's strings becomes markup, script or a request."""
    report = made_report(made_answer(HOSTILE, tower=HOSTILE), name=HOSTILE)
    seen = _tags(report._repr_html_())
    assert not {"script", "img", "link", "iframe"} & set(seen.opened)
    assert not [name for name in seen.attributes if name.startswith("on") or name in {"src", "href"}]


def test_every_head_has_a_cell_with_name_and_value() -> None:
    """Six heads, six cells."""
    html = made_report()._repr_html_()
    assert _tags(html).opened.count("td") == 6
    assert 'title="L0.H1 0.9"' in html


def test_a_very_large_model_does_not_weigh_on_the_notebook() -> None:
    """Above a stated number of heads only the top ones are written."""
    html = made_report(made_answer(head_map=made_map(np.zeros((100, 100)))))._repr_html_()
    assert len(html) < 5000
    assert "10000 heads" in html


def test_unseen_layers_and_notes_are_shown() -> None:
    """What a reader must know is in the picture too."""
    assert "cut to 12 tokens" in made_report()._repr_html_()
