"""fcnet.functional.triton_kernels: its rules hold in Triton's interpreter, and the kernels compile for a GPU."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from fcnet.functional import fused
from tests.unit.functional.helpers import run_in_interpreter

triton = pytest.importorskip("triton")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
POINTERS = ("x", "target", "weight", "states", "row_stats", "grad", "total", "grad_logits")


def test_the_rules_hold_in_the_interpreter() -> None:
    run_in_interpreter("interpreted_kernels.py")


def compile_kernel(name: str, dtype: str, kind: int, **flags: int) -> Any:
    """Compiles a kernel for an H100, which need not be present, with the largest tiles."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fcnet.functional import triton_kernels

    kernel = getattr(triton_kernels, name)
    itemsize = DTYPES[dtype].itemsize
    block, warps = fused._block_size(128_256, itemsize, kind)
    constants = {"KIND": kind, "EXACT": dtype == "fp32", "BLOCK": block, "GROUP": 16 // itemsize, **flags}
    constants = {each: value for each, value in constants.items() if each in kernel.arg_names}
    types = {
        "target": f"*{dtype}" if kind == 2 else "*i64",
        **dict.fromkeys(("x", "grad_logits"), f"*{dtype}"),
        **dict.fromkeys(("weight", "states", "row_stats", "grad", "total"), "*fp32"),
        **dict.fromkeys(("num_classes", "ignore_index", "grad_stride"), "i32"),
        **dict.fromkeys(("own", "even"), "fp32"),
        **dict.fromkeys(constants, "constexpr"),
    }
    names = kernel.arg_names
    aligned = {(names.index(each),): [["tt.divisibility", 16]] for each in POINTERS if each in names}
    given = {(names.index(each),): value for each, value in constants.items()}
    source = ASTSource(kernel, {each: types[each] for each in names}, given, aligned)
    options: dict[str, Any] = {"num_warps": warps}
    if name == "cross_entropy_forward":
        registers = fused._MAX_REGISTERS
        options |= {"debug": True, "maxnreg": registers, "sanitize_overflow": False}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("cross_entropy_forward", {"WRITE_GRAD": False, "WEIGHTED": True, "PARTS": 1}),
        ("cross_entropy_forward", {"WRITE_GRAD": True, "WEIGHTED": True, "PARTS": 1}),
        ("cross_entropy_forward", {"WRITE_GRAD": False, "WEIGHTED": True, "PARTS": 32}),
        ("cross_entropy_backward", {"MEAN": True, "WEIGHTED": True}),
    ],
)
def test_the_kernels_compile_for_a_gpu_without_spilling_registers(
    name: str, flags: dict[str, int], kind: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And load and store 16 bytes at a time, whatever the number of classes."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    compiled = compile_kernel(name, dtype, kind, **flags).asm
    assembly = compiled["ptx"]
    assert "ld.global.v4.b32" in assembly
    assert ("st.global.v4.b32" in assembly) == flags.get("WRITE_GRAD", True)
    assert ("__assertfail" in assembly) == (name == "cross_entropy_forward" and kind != 2)
    reader = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not reader.is_file():
        pytest.skip("no cuobjdump beside Triton")
    (tmp_path / "kernel.cubin").write_bytes(compiled["cubin"])
    command = [str(reader), "--dump-resource-usage", "kernel.cubin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    usage = re.search(rf"Function {name}:\s+REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", done.stdout)
    assert usage is not None, done.stdout
    registers, *spilled = map(int, usage.groups())
    assert registers <= fused._MAX_REGISTERS
    assert spilled == [0, 0]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("cross_entropy_forward", {"WRITE_GRAD": True, "WEIGHTED": True, "PARTS": 1}),
        ("cross_entropy_forward", {"WRITE_GRAD": False, "WEIGHTED": True, "PARTS": 32}),
        ("cross_entropy_join", {"WEIGHTED": True, "PARTS": 32}),
        ("cross_entropy_backward", {"MEAN": True, "WEIGHTED": True}),
    ],
)
def test_offsets_of_rows_are_computed_in_64_bits(
    name: str, flags: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times 429,496,730 rows, where the last row statistics begin, is more than 2^31."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    lines = compile_kernel(name, "fp32", 1, **flags).asm["ttir"].splitlines()
    rows = [line.split()[0] for line in lines if "tt.get_program_id x" in line or "tt.get_num_programs x" in line]
    assert len(rows) == 2
    uses = [line for line in lines for row in rows if re.search(rf"{row}\b(?! = tt)", line)]
    assert len(uses) >= 2
    assert all("arith.extsi" in use and "i32 to i64" in use for use in uses), uses


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("parts", [2, 64])
def test_the_kernel_that_joins_parts_compiles_for_a_gpu(
    parts: int, kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert compile_kernel("cross_entropy_join", "bf16", kind, WEIGHTED=True, PARTS=parts).asm["cubin"]


@pytest.mark.parametrize("name", ["cross_entropy_forward", "cross_entropy_join", "cross_entropy_backward"])
def test_no_number_is_compiled_into_a_kernel(name: str) -> None:
    """Triton would compile another program for 1 and for every multiple of 16."""
    numbers = ("num_classes", "ignore_index", "grad_stride")
    from fcnet.functional import triton_kernels

    given = [each for each in getattr(triton_kernels, name).params if each.name in numbers]
    assert given
    assert all(each.do_not_specialize for each in given)
