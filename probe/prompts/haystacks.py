"""A needle hidden in a haystack of a wanted length and depth (methods.md's protocol; Wu et al. 2024)."""

from dataclasses import dataclass
from typing import Any, Literal

from probe.errors import InputError
from probe.prompts.data import Needle, haystack
from probe.prompts.prompt import Prompt
from probe.prompts.spans import Chars

Style = Literal["complete", "question", "chat"]
STYLES: tuple[Style, ...] = ("complete", "question", "chat")

_ENDS = (". ", "? ", "! ", ": ", "; ")


@dataclass(frozen=True)
class HiddenNeedle:
    """What to hide, in how many tokens of haystack, how deep (0 = front, 1 = back), and how to ask for it.

    Styles: ``complete`` ends with a new line and the needle up to its answer; ``question`` with the question;
    ``chat`` puts text and question into one user turn of the tokenizer's chat template.
    """

    needle: Needle
    length: int  # tokens of the whole prompt, at most
    depth: float
    style: Style = "complete"
    start: int = 0  # character of the haystack to begin at; snapped to a sentence

    @property
    def id(self) -> str:
        """``needle:lighthouse:n500:d0.1``."""
        return f"needle:{self.needle.id}:n{self.length}:d{self.depth:g}"


def hide(hidden: HiddenNeedle, tokenizer: Any, text: str | None = None) -> Prompt:
    """Build the prompt, with spans ``needle`` (the sentence) and ``answer`` (its answer) in the haystack.

    The haystack is cut so that the whole prompt has at most `hidden.length` tokens; the needle goes behind the last
    sentence that ends before the asked depth (at depth 1 behind everything, mid-sentence or not). The answer's
    tokens are found by characters, so that a token which the tokenizer merges across its edge still counts.

    Raises:
        InputError: the length has no room for needle and question, the haystack is too short, or the depth is
            outside [0, 1].
    """
    if not 0 <= hidden.depth <= 1:
        raise InputError(f"a depth of {hidden.depth} was asked; give one between 0 (front) and 1 (back)")
    source = _from_sentence(text or haystack(), hidden.start)
    frame = len(_framed(hidden, "", tokenizer))
    room = hidden.length - frame
    # Characters per token differ by text: cut by the tokenizer's own offsets, then give back what merging adds.
    coded = tokenizer(
        source[: room * 12], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    offsets = coded["offset_mapping"]
    if len(offsets) < room:
        raise InputError(
            f"{room} tokens of haystack were asked; the text has {len(offsets)} left: give a longer one"
        )
    while room >= 1:
        body = source[: offsets[room - 1][1]].rstrip()
        prompt = _framed(hidden, body, tokenizer)
        if len(prompt) <= hidden.length:
            return prompt
        room -= len(prompt) - hidden.length
    raise InputError(
        f"a length of {hidden.length} tokens was asked; needle and question alone take {frame}: ask for more"
    )


def _framed(hidden: HiddenNeedle, body: str, tokenizer: Any) -> Prompt:
    at = round(hidden.depth * len(body))
    cut = _sentence_end(body, at if hidden.depth == 1 else min(at, len(body) - 1))
    before, after = body[:cut].rstrip(), body[cut:].strip()
    front = before + " " if before else ""
    needle = hidden.needle
    text = front + needle.needle + (" " + after if after else "")
    start = len(front)
    at = start + needle.needle.index(needle.answer)
    spans = {
        "needle": [(start, start + len(needle.needle))],
        "answer": [(at, at + len(needle.answer))],
    }
    if hidden.style == "chat":
        return _as_chat(hidden, text, spans, tokenizer)
    tail = (
        f"\n{needle.opening}" if hidden.style == "complete" else f"\n\nQuestion: {needle.question}\nAnswer:"
    )
    if hidden.style == "question":
        head = "Read the text, then answer the question with words from the text.\n\n"
        text, spans = head + text, _moved(spans, len(head))
    named = {name: Chars(*ranges) for name, ranges in spans.items()}
    return Prompt.of(text + tail, tokenizer, spans=named, id=hidden.id, answer=needle.answer)


def _as_chat(
    hidden: HiddenNeedle, text: str, spans: dict[str, list[tuple[int, int]]], tokenizer: Any
) -> Prompt:
    said = f"{text}\n\nAnswer with words from the text: {hidden.needle.question}"
    chat = Prompt.from_messages([{"role": "user", "content": said}], tokenizer, id=hidden.id)
    moved = _moved(spans, chat.text.index(said))
    named = {name: Chars(*ranges) for name, ranges in moved.items()}
    return Prompt.of(
        chat.text, tokenizer, spans=named, id=hidden.id, answer=hidden.needle.answer, special=False
    )


def _moved(spans: dict[str, list[tuple[int, int]]], by: int) -> dict[str, list[tuple[int, int]]]:
    return {name: [(start + by, stop + by) for start, stop in ranges] for name, ranges in spans.items()}


def _from_sentence(text: str, start: int) -> str:
    """The text from the first sentence that begins at or after `start`."""
    if start == 0:
        return text
    ends = [text.find(". ", start)]
    return text[ends[0] + 2 :] if ends[0] >= 0 else text


def _sentence_end(text: str, at: int) -> int:
    """The end of the last sentence that ends at or before `at`; 0 where none does."""
    if at >= len(text):
        return len(text)
    found = max(text.rfind(end, 0, at + 1) for end in _ENDS)
    return found + 1 if found >= 0 else 0
