"""What a loop costs, read from a disassembly."""

import re
from dataclasses import dataclass

_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", re.MULTILINE)
_BRANCH = re.compile(r"^(@!?U?P\w+ )?U?BRA(?:\.\w+)* .*?0x([0-9a-f]+)")
_TENSOR = re.compile(r"\b(?:HMMA|HGMMA|IMMA|DMMA)\b")
_GROUP = re.compile(r"\bHGMMA\.64x(\d+)x\d+")


@dataclass(frozen=True)
class Loop:
    """One turn of a loop, for one warp: the way that holds all tensor-core instructions and least else."""

    tensor: tuple[str, ...]
    other: int

    def cycles(self, arch: int) -> float:
        """Issue slots of a quarter of a multiprocessor, with a tensor-core instruction as long as it fills its unit."""
        return self.other + sum(tensor_cycles(one, arch) for one in self.tensor)


def tensor_cycles(instruction: str, arch: int) -> float:
    """Cycles of one quarter's tensor cores at their peak: 256 products a cycle on 8.0, 1024 on 9.0, half for tf32."""
    rate = 256 if arch < 90 else 1024
    group = _GROUP.search(instruction)
    if group:  # a fourth of a 64 × N × 16 product
        return 16 * int(group[1]) * 16 / rate
    return 16 * 8 * 16 / rate  # 16 × 8 × 16, or 16 × 8 × 8 of tf32 at half the rate


def instructions(text: str) -> list[tuple[int, str]]:
    """Addresses and instructions of a listing by ``cuobjdump -sass``."""
    return [(int(at, 16), one) for at, one in _LINE.findall(text)]


def loops(text: str) -> list[Loop]:
    """Innermost loops that hold tensor-core instructions, in their order."""
    code = instructions(text)
    place = {at: number for number, (at, _) in enumerate(code)}
    spans = []
    for number, (at, one) in enumerate(code):
        found = _BRANCH.match(one)
        if found and int(found[2], 16) < at and int(found[2], 16) in place:
            first = place[int(found[2], 16)]
            if any(_TENSOR.search(line) for _, line in code[first:number]):
                spans.append((first, number))
    inner = [s for s in spans if not any(t != s and s[0] <= t[0] and t[1] <= s[1] for t in spans)]
    return [_turn(code, place, first, last) for first, last in inner]


def _turn(code: list[tuple[int, str]], place: dict[int, int], first: int, last: int) -> Loop:
    """The way through a loop's body by its forward branches with most tensor-core instructions, then fewest others."""
    best: dict[int, tuple[int, int]] = {}
    step: dict[int, int] = {}
    for number in range(last, first - 1, -1):
        line = code[number][1]
        tensor = 1 if _TENSOR.search(line) else 0
        after = [] if number == last else _after(line, number, last, place)
        ways = [(best[way], way) for way in after if way in best]
        (most, least), way = min(((-m, o), w) for (m, o), w in ways) if ways else ((0, 0), -1)
        if number != last and not ways:
            continue
        best[number] = (-most + tensor, least + 1 - tensor)
        step[number] = way
    taken, number = [], first
    while number >= 0:
        taken.append(code[number][1])
        number = step.get(number, -1)
    tensor_lines = tuple(line for line in taken if _TENSOR.search(line))
    return Loop(tensor_lines, len(taken) - len(tensor_lines))


def _after(line: str, number: int, last: int, place: dict[int, int]) -> list[int]:
    found = _BRANCH.match(line)
    if found is None:
        return [] if line.startswith("EXIT") else [number + 1]
    target = place.get(int(found[2], 16), -1)
    forward = [target] if number < target <= last else []
    return forward if found[1] is None else [number + 1, *forward]
