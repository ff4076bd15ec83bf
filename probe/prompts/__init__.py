"""Prompts: text with named spans, files of them, and the data that ships with probe."""

from probe.prompts.prompt import Prompt
from probe.prompts.spans import RESERVED, Chars, SpanLike

__all__ = ["RESERVED", "Chars", "Prompt", "SpanLike"]
