"""The ABI has one source, csrc/abi.h: what Python knows is made of it, and a library made of another one is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native

ROOT = Path(__file__).resolve().parents[1]
HEADER = (ROOT / "csrc/abi.h").read_text()
sys.path.append(str(ROOT))
from build_native import abi  # noqa: E402  (a folder beside setup.py, which no installation has)


def read(folder: Path, text: str) -> abi.Abi:
    (folder / "abi.h").write_text(text)
    return abi.read(folder / "abi.h")


def library(folder: Path, text: str) -> Path:
    """A library that holds only what every library reports of itself, compiled from a header of this text."""
    source, out = folder / "layout.cpp", folder / "library.so"
    source.write_text(abi.layout_source(read(folder, text), folder / "abi.h", "none"))
    compiler = os.environ.get("CXX", "g++").split()
    done = subprocess.run([*compiler, "-shared", "-fPIC", str(source), "-o", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def changed(*lines: tuple[str, str]) -> str:
    text = HEADER
    for before, after in lines:
        assert text.count(before) == 1, f"{before!r} stands {text.count(before)} times in csrc/abi.h"
        text = text.replace(before, after)
    return text


def test_the_python_side_is_made_of_the_header() -> None:
    made = abi.python_source(abi.read(ROOT / "csrc/abi.h"))
    assert (ROOT / "splatlearn/ops/abi.py").read_text() == made, "run `python setup.py build_ext --inplace`"


ROW_IDS = "    const int32_t *row_ids;            // [I]\n"
OFFSETS = "    const int64_t *tile_offsets;       // [C*B+1]\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            changed((OFFSETS + ROW_IDS, ROW_IDS + OFFSETS)),
            r"RasterizeInputs.tile_offsets is const int64_t \* at byte (\d+) here, but "
            r"RasterizeInputs.row_ids is const int32_t \* at byte \1 there",
        ),
        (
            changed(("real *render;                      // [C,H,W,D]\n", "real *image;\n")),
            r"RasterizeForward.render is real \* at byte \d+ here, but RasterizeForward.image is",
        ),
        (
            changed(("const uint8_t *visible;", "const int32_t *visible;")),
            r"AdamGroups.visible is const uint8_t \* at byte (\d+) here, but AdamGroups.visible is const int32_t \* at",
        ),
        (changed(("int32_t raw; ", "int64_t raw; ")), "ProjectInputs.raw is int32_t at byte .* int64_t at byte"),
        (changed(("SPLATLEARN_SPAN 256", "SPLATLEARN_SPAN 128")), "SPAN is 256 here, but SPAN is 128 there"),
        (changed(("real *parameters[6]", "real *parameters[7]")), r"parameters is real \*\[6\]"),
    ],
    ids=["swapped", "renamed", "pointee", "wider", "constant", "longer"],
)
def test_a_library_of_another_header_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SplatlearnError, match=f"was built from another csrc/abi.h: .*{sentence}") as caught:
        native._load(library(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_the_offsets_are_those_of_the_compiled_header(tmp_path: Path) -> None:
    """A table made of our header, but compiled with another one, must not report our offsets."""
    out = library(tmp_path, HEADER)
    swapped = changed((OFFSETS + ROW_IDS, ROW_IDS + OFFSETS))
    (tmp_path / "abi.h").write_text(swapped)
    command = [*os.environ.get("CXX", "g++").split(), "-shared", "-fPIC", str(tmp_path / "layout.cpp"), "-o", str(out)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    with pytest.raises(SplatlearnError, match="RasterizeInputs.tile_offsets .* here, but RasterizeInputs.tile_offsets"):
        native._load(out)
    (tmp_path / "abi.h").write_text(changed(("const uint8_t *visible;", "const int32_t *visible;")))
    done = subprocess.run(command, capture_output=True, text=True)
    assert "AdamGroups.visible" in done.stderr, "another type than the table's compiles"


def test_the_libraries_have_our_abi() -> None:
    assert native._abi_difference(native.library("cpu")) == ""


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("int32_t raw; ", "unsigned raw; ", "has a type that is not understood: unsigned"),
        ("int32_t raw; ", "int32_t raw : 3; ", "is not understood"),
        ("    splatlearn_ProjectBackward grad;", "    splatlearn_Grad grad;", "Grad, which is no struct above it"),
        ("#define SPLATLEARN_SPAN 256", "#define SPLATLEARN_SPAN kSpan", "must be a number"),
        ("#pragma once", "#pragma pack(1)", "is not understood"),
        ("#pragma once", "#include <stddef.h>", "is not understood"),
    ],
)  # fmt: skip
def test_what_the_dialect_lacks_is_refused_by_line(tmp_path: Path, before: str, after: str, sentence: str) -> None:
    number = 1 + HEADER[: HEADER.index(before)].count("\n")
    with pytest.raises(abi.AbiError, match=rf"abi.h, line {number}: .*{sentence}"):
        read(tmp_path, changed((before, after)))


def test_fields_are_filled_by_keyword() -> None:
    context = native.context(torch.zeros(1))
    with pytest.raises(TypeError, match="missing .* 'parameter'"):
        native.Adam(  # type: ignore[call-arg]
            context=context, count=1, step=1, learning_rate=1.0, beta1=0.9, beta2=0.9, eps=0.0,
            gradient=torch.zeros(1), exp_avg=torch.zeros(1), exp_avg_sq=torch.zeros(1),
        )  # fmt: skip
    with pytest.raises(TypeError, match="unexpected .* 'recrods'"):
        native.ProjectForward(recrods=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Adam.parameter is a NoneType"):
        native.Adam(
            context=context, count=1, step=1, learning_rate=1.0, beta1=0.9, beta2=0.9, eps=0.0,
            parameter=None,  # type: ignore[arg-type]
            gradient=torch.zeros(1), exp_avg=torch.zeros(1), exp_avg_sq=torch.zeros(1),
        )  # fmt: skip


def test_a_struct_keeps_its_tensors() -> None:
    tensors = {name: torch.zeros(3) for name in ("parameter", "gradient", "exp_avg", "exp_avg_sq")}
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    numbers = {"count": 3, "step": 1, "learning_rate": 0.5, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
    params = native.Adam(context=native.context(tensors["gradient"]), **numbers, **tensors)  # type: ignore[arg-type]
    assert {name: getattr(params, name) for name in numbers} == numbers
    assert {name: getattr(params, name) for name in addresses} == addresses
    assert all(any(kept is tensor for kept in params.kept) for tensor in tensors.values())  # type: ignore[attr-defined]


def test_arrays_take_exactly_their_length() -> None:
    with pytest.raises(ValueError, match="takes 6 values, but got 5"):
        native.ProjectUpdate(learning_rates=[0.0] * 5, **dict.fromkeys(MANY))  # type: ignore[arg-type]


MANY = ("grad", "n_moving", "step", "beta1", "beta2", "eps", "parameters", "exp_avg", "exp_avg_sq")
