"""The kernels of fcnet.functional.fused: their rules hold in Triton's interpreter, and they compile for a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import fcnet.functional as F
from fcnet.functional import fused

triton = pytest.importorskip("triton")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
POINTERS = ("x", "target", "weight", "row_stats", "grad", "total", "grad_logits")


def test_the_rules_hold_in_the_interpreter() -> None:
    """In a process of its own: what is interpreted is settled when Triton is imported."""
    rules = Path(__file__).with_name("fused_interpreted.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(rules)]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def compiled(name: str, dtype: str, kind: int, **flags: bool) -> Any:
    """A kernel for an H100, which need not be there, with tiles of the most classes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fcnet.functional import triton_kernels

    kernel = getattr(triton_kernels, name)
    itemsize = DTYPES[dtype].itemsize
    block, warps = fused._block_size(128_256, itemsize, kind)
    constants = {"KIND": kind, "EXACT": dtype == "fp32", "BLOCK": block, "GROUP": 16 // itemsize, **flags}
    types = {
        "target": f"*{dtype}" if kind == 2 else "*i64",
        **dict.fromkeys(("x", "grad_logits"), f"*{dtype}"),
        **dict.fromkeys(("weight", "row_stats", "grad", "total"), "*fp32"),
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
        registers = fused._MAX_REGISTERS if kind == 2 else None
        options |= {"debug": True, "maxnreg": registers, "sanitize_overflow": False}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("cross_entropy_forward", {"WRITE_GRAD": False, "WEIGHTED": True}),
        ("cross_entropy_forward", {"WRITE_GRAD": True, "WEIGHTED": True}),
        ("cross_entropy_backward", {"MEAN": True, "WEIGHTED": True}),
    ],
)
def test_the_kernels_compile_for_a_gpu_without_spilling_registers(
    name: str, flags: dict[str, bool], kind: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And take sixteen bytes at a time, though the number of classes is anything."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assembly = compiled(name, dtype, kind, **flags).asm["ptx"]
    assert "ld.global.v4.b32" in assembly
    assert ("st.global.v4.b32" in assembly) == flags.get("WRITE_GRAD", True)
    assert ("__assertfail" in assembly) == (name == "cross_entropy_forward" and kind != 2)
    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    if not assembler.is_file():
        pytest.skip("no ptxas beside Triton")
    (tmp_path / "kernel.ptx").write_text(assembly)
    command = [str(assembler), "-v", "--gpu-name=sm_90a", "kernel.ptx", "-o", "kernel.cubin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    assert re.search(r"\b0 bytes spill stores, 0 bytes spill loads", said), said
    registers = re.search(r"Used (\d+) registers", said)
    assert registers is not None
    assert int(registers[1]) <= fused._MAX_REGISTERS


@pytest.mark.parametrize("name", ["cross_entropy_forward", "cross_entropy_backward"])
def test_no_number_is_compiled_into_a_kernel(name: str) -> None:
    """Else one class, as a constant, would be another program, and each divisible number of them."""

    numbers = ("num_classes", "ignore_index", "grad_stride")
    from fcnet.functional import triton_kernels

    given = [each for each in getattr(triton_kernels, name).params if each.name in numbers]
    assert given
    assert all(each.do_not_specialize for each in given)


@pytest.mark.parametrize("num_classes", [1, 2, 3, 8, 10, 100, 1000, 1001, 4096, 4097, 21_841, 128_256, 128_257])
@pytest.mark.parametrize(("itemsize", "kind", "most"), [(2, 0, 4096), (2, 2, 2048), (4, 0, 2048), (4, 1, 2048)])
def test_a_row_that_fits_is_one_tile_wherever_in_sixteen_bytes_it_begins(
    itemsize: int, kind: int, most: int, num_classes: int
) -> None:
    block, warps = fused._block_size(num_classes, itemsize, kind)
    group = 16 // itemsize
    head = 0 if num_classes % group == 0 else group - 1
    assert block % (32 * group) == 0
    assert block >= head + num_classes or block == most
    assert warps in (1, 2, 4, 8)


def test_what_kernels_read_begins_where_sixteen_bytes_do() -> None:
    """The interpreter does not mind; a GPU reads elsewhere, or stops."""
    for start in range(4):
        x = torch.arange(20.0)[start : start + 8].view(2, 4)
        assert fused._align(x).data_ptr() % 16 == 0
        assert_close(fused._align(x), x, rtol=0, atol=0)


def test_without_triton_or_a_compiler_the_plain_form_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> None:
        raise OSError("no compiler")

    monkeypatch.setattr(fused, "_DEVICE_TYPE", "cpu")
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 3])
    expected = torch.nn.functional.cross_entropy(x, y)
    monkeypatch.setattr(fused, "_kernels", fails)
    fused._triton_works.cache_clear()
    assert not fused.is_supported(x, y, None)
    assert_close(F.cross_entropy(x, y), expected)
    fused._triton_works.cache_clear()


def test_importing_the_package_does_not_import_triton() -> None:
    code = "import sys, fcnet.functional; assert 'fcnet.functional.triton_kernels' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
