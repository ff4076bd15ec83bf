"""Texts of different domains: prose, code, JSON and lists, to see what a head does on which."""

from probe.prompts.data import default_text, rows

_PROSE = 8  # texts per domain


def domain_texts() -> dict[str, list[str]]:
    """The shipped texts by domain, eight each: ``prose`` (pieces of the story), ``code``, ``json`` and ``lists``.

    Each has about 400 characters or more.
    """
    paragraphs = [one for one in default_text().split("\n\n") if one.strip()]
    size = len(paragraphs) // _PROSE
    texts = {"prose": ["\n\n".join(paragraphs[n * size : (n + 1) * size]) for n in range(_PROSE)]}
    for row in rows("domains.jsonl"):
        texts.setdefault(row["domain"], []).append(row["text"])
    return texts
