"""Pairs of your own from a file: everything is checked before anything is returned."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from probe.errors import InputError
from probe.prompts.files import read_rows
from probe.prompts.pairs.answers import only_token
from probe.prompts.pairs.pair import Pair, PairSet
from probe.prompts.prompt import Prompt
from probe.prompts.spans import Chars

_Place = Annotated[int, Field(ge=0)]
_Range = Annotated[list[_Place], Field(min_length=2, max_length=2)]
_Answer = Annotated[str, Field(min_length=1)]
_Answers = _Answer | Annotated[list[_Answer], Field(min_length=1)]


class _Row(BaseModel):
    """One row of a file of pairs."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str | None = None
    clean: str
    corrupt: str
    answer: _Answers
    wrong: _Answers
    marks: dict[str, _Place | _Range] = Field(default_factory=dict)

    def pair(self, tokenizer: Any, default_id: str) -> Pair:
        name = self.id or default_id
        right, wrong = (
            [one] if isinstance(one, str) else list(dict.fromkeys(one)) for one in (self.answer, self.wrong)
        )
        ranges = {mark: Chars((at[0], at[1])) for mark, at in self.marks.items() if isinstance(at, list)}
        clean = Prompt.of(self.clean, tokenizer, spans=ranges, id=name, answer=right[0])
        corrupt = Prompt.of(self.corrupt, tokenizer, id=f"{name}:corrupt", answer=wrong[0])
        marks = {
            mark: at if isinstance(at, int) else _last(clean, mark, at) for mark, at in self.marks.items()
        }
        tokens = [tuple(only_token(self.clean, one, tokenizer) for one in ones) for ones in (right, wrong)]
        return Pair(name, clean, corrupt, tokens[0], tokens[1], marks)


def read_pairs(path: str | Path, tokenizer: Any) -> PairSet:
    """The pairs of a JSON-lines file, called as the file is; blank lines are skipped.

    A row is ``{"id"?, "clean", "corrupt", "answer", "wrong", "marks"?}``. `answer` may follow the clean prompt, `wrong`
    is what it is held to, such as what the corrupt prompt asks for: one text of one token each, as it is written (with
    its space), or a list of texts that count alike. A mark is ``[start, stop)`` in characters of the clean prompt, for
    the last token there, or the number of a token. A row without an id is called ``<file>:<line>``.

    Raises:
        InputError: the file cannot be read or has no rows, or a row is wrong; the message names the file, the line and
            what is wrong, and no pair is returned.
    """
    pairs = read_rows(path, lambda row, name: _Row.model_validate(row).pair(tokenizer, name))
    return PairSet(Path(path).stem, tuple(pairs))


def _last(prompt: Prompt, mark: str, at: list[int]) -> int:
    found = np.flatnonzero(prompt.spans[mark])
    if not found.size:
        raise InputError(
            f"the mark {mark!r} was given as characters {at}; no token is there: give a range of some"
        )
    return int(found[-1])
