"""What is told of compiled kernels: read from a listing written by hand, and from a few kernels compiled here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from probe_kernels.aot import sass

# A loop over tiles of 4 products whose turn goes around a block that few tiles need, one without products, one masked.
LISTING = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;                    /* 0x00000a0000017a02 */
                                                                             /* 0x000fe40000000f00 */
        /*0010*/                   LDSM.16.M88.4 R8, [R2] ;                  /* 0x000000000208783b */
        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;     /* 0x0000000c0804723c */
        /*0030*/                   HMMA.16816.F32.BF16 R4, R8, R14, R4 ;     /* 0x0000000e0804723c */
        /*0040*/              @!P1 BRA 0x70 ;                                /* 0x0000002000009947 */
        /*0050*/                   FADD R3, R3, R4 ;                         /* 0x0000000403037221 */
        /*0060*/                   FADD R3, R3, R5 ;                         /* 0x0000000503037221 */
        /*0070*/                   MUFU.EX2 R6, R3 ;                         /* 0x0000000300067308 */
        /*0080*/               @P0 BRA 0x10 ;                                /* 0xffffff8000000947 */
        /*0090*/                   FADD R7, R7, R7 ;                         /* 0x0000000707077221 */
        /*00a0*/               @P2 BRA 0x90 ;                                /* 0xfffffff000000947 */
        /*00b0*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ; /* 0x00e00000041879f0 */
        /*00c0*/                   FSEL R3, R3, -INF , P3 ;                  /* 0xff80000003037808 */
        /*00d0*/              @!UP0 BRA 0xb0 ;                               /* 0xffffffd000008947 */
        /*00e0*/                   EXIT ;                                    /* 0x000000000000794d */
"""


def test_loops_are_those_with_products_and_their_shortest_turn_is_counted() -> None:
    """The block that a branch goes around is not counted, and the loop without products is none."""
    first, second = sass.loops(LISTING)
    assert [one.split()[0] for one in first.tensor] == ["HMMA.16816.F32.BF16"] * 2
    assert first.other == 4  # LDSM, the branch around, MUFU, the branch back
    assert (len(second.tensor), second.other) == (1, 2)


def test_a_product_that_only_the_longer_way_holds_is_counted() -> None:
    """A way around tensor-core instructions is no turn of the loop, however short."""
    loop, _ = sass.loops(LISTING.replace("FADD R3, R3, R5", "HMMA.16816.F32 R4, R8"))
    assert (len(loop.tensor), loop.other) == (3, 5)


def test_cycles_count_a_product_as_long_as_it_fills_its_unit() -> None:
    """2048 multiply-adds take 8 cycles at 256 a cycle; a fourth of 64 × 128 × 16 takes 32 at 1024."""
    first, second = sass.loops(LISTING)
    assert first.cycles(80) == 2 * 8 + 4
    assert second.cycles(90) == 32 + 2


def test_a_listing_without_a_loop_has_none() -> None:
    """Straight code, and no code."""
    assert sass.loops(LISTING.split("/*0040*/")[0]) == []
    assert sass.loops("") == []


def _run(*arguments: str, interpret: bool = False) -> subprocess.CompletedProcess[str]:
    # A driver that stands in for a device, and kernels that compile, are no company for an interpreter.
    kept = {name: one for name, one in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpret:
        kept["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "probe_kernels.aot", *arguments]
    return subprocess.run(command, env=kept, capture_output=True, text=True, check=False)


def test_a_few_kernels_compile_without_spills_and_use_tensor_cores(tmp_path: Path) -> None:
    """The page tells registers, spills and loops of launches for both architectures, and none fails."""
    page = tmp_path / "kernels.md"
    done = _run("--quick", "--jobs", "1", "--out", str(page))
    assert done.returncode == 0, done.stderr
    assert "3 launches, 0 with failures" in done.stdout
    text = page.read_text()
    assert "No launch spills" in text
    assert "Nothing is over the budget of 1.35" in text
    assert {"## sm_80", "## sm_90"} <= set(text.splitlines())
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize(
    ("arguments", "interpret", "told"),
    [
        (("--quick",), True, "unset it"),
        (("--out", "nowhere/kernels.md"), False, "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_compiled_or_written_is_told(
    arguments: tuple[str, ...], interpret: bool, told: str
) -> None:
    """The interpreter compiles nothing; a folder that is not there is not made."""
    done = _run(*arguments, interpret=interpret)
    assert done.returncode == 2
    assert told in done.stderr
