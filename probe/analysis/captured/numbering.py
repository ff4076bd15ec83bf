"""Prompts numbered in the order in which they were given, whatever numbers the seam gives them."""

from dataclasses import dataclass, field


@dataclass
class Numbering:
    """Counts prompts per tower: an image is a prompt of the vision tower, so towers may count differently."""

    _base: dict[str, int] = field(default_factory=dict)
    _seen: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)

    def of(self, tower: str, source: str, number: int) -> int:
        """The prompt's place in order; `source` keeps the seam's numbers of calls and of activations apart."""
        seen = self._seen.setdefault((tower, source), {})
        rank = seen.setdefault(number, len(seen))
        return self._base.get(tower, 0) + rank

    def row(self, tower: str, prompt: int) -> int:
        """Which sequence of the current item a prompt is."""
        return prompt - self._base.get(tower, 0)

    def next_item(self) -> None:
        """The item is done: what comes next are further prompts."""
        longest: dict[str, int] = {}
        for (tower, _), seen in self._seen.items():
            longest[tower] = max(longest.get(tower, 0), len(seen))
        for tower, count in longest.items():
            self._base[tower] = self._base.get(tower, 0) + count
        self._seen.clear()
