"""Prompts: text with named spans, files of them, and the data that ships with probe."""

from probe.prompts.data import Needle, data_dir, default_text, haystack, needles
from probe.prompts.files import read_prompts, read_text
from probe.prompts.haystacks import STYLES, HiddenNeedle, Style, hide
from probe.prompts.ioi import ioi_prompts
from probe.prompts.prompt import Prompt
from probe.prompts.repeated import repeated_tokens
from probe.prompts.spans import RESERVED, Chars, SpanLike

__all__ = [
    "RESERVED",
    "STYLES",
    "Chars",
    "HiddenNeedle",
    "Needle",
    "Prompt",
    "SpanLike",
    "Style",
    "data_dir",
    "default_text",
    "haystack",
    "hide",
    "ioi_prompts",
    "needles",
    "read_prompts",
    "read_text",
    "repeated_tokens",
]
