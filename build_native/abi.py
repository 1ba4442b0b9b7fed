"""Reads csrc/abi.h, and writes from it what Python and a native library know of the ABI.

`python_source` gives splatlearn/ops/abi.py: a ctypes struct per C struct, the constants, the entry points.
`layout_source` gives a C++ file that every library contains: a table of all fields with the offsets that the compiler
gave them, which the loader compares with its own. The file does not compile if a field's type is another one.
"""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

PREFIX = "splatlearn_"
SCALARS = {"int32_t": "int", "int64_t": "int", "double": "float"}
POINTEES = ("int32_t", "int64_t", "uint8_t", "double", "real", "pixel", "void")
BOILERPLATE = ("#pragma once", "#include <stdint.h>", "#ifdef __cplusplus", 'extern "C" {', "#endif", "}")
CONSTANT = re.compile(r"#define SPLATLEARN_([A-Z][A-Z0-9_]*) (?:\((\S+) / (\S+)\)|(\S+))")
FIELDS = re.compile(r"    (const )?(\w+) (.+);")
DECLARATOR = re.compile(r"(\*?)([A-Za-z]\w*)(?:\[(\d+)\])?")
STAGE = re.compile(r"    stage\((\w+), splatlearn_(\w+)\)( \\)?")
HEAD = '''"""The C ABI of the native libraries, written by build_native/abi.py; csrc/abi.h has shapes and units.

Change csrc/abi.h, not this file; building the libraries writes it again.
"""

import ctypes
from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from splatlearn.ops.structs import struct
'''


class AbiError(Exception):
    """A line of csrc/abi.h that is outside of its dialect."""


class Field(NamedTuple):
    name: str
    c_type: str  # such as "int32_t", "const real *", "double[6]", or the name of a struct
    optional: bool


class Struct(NamedTuple):
    name: str
    fields: list[Field]


class Abi(NamedTuple):
    """What csrc/abi.h declares, names without their prefix."""

    constants: dict[str, str]  # Python expressions
    structs: list[Struct]
    stages: dict[str, dict[str, str]]  # by macro: entry points and their structs


def read(header: Path) -> Abi:
    """Reads the header.

    Raises:
        AbiError: a line is none of those that its dialect has.
    """
    abi = Abi({}, [], {})
    fields: list[Field] | None = None  # of the struct that is open
    notes: list[tuple[list[str], list[Field]]] = []  # comments with the fields that they stand at
    stages: dict[str, str] | None = None  # of the macro that is open
    for number, text in enumerate(header.read_text().splitlines(), 1):
        code, _, comment = (part.rstrip() for part in text.partition("//"))
        try:
            if stages is not None:
                entry = _match(STAGE, code)
                stages[entry[1]] = _known(entry[2], abi)
                stages = stages if entry[3] else None
            elif fields is None and code.startswith("#define"):
                if code.endswith("STAGES(stage) \\"):
                    stages = abi.stages[code.split()[1].removeprefix("SPLATLEARN_").removesuffix("(stage)")] = {}
                else:
                    constant = _match(CONSTANT, code)
                    abi.constants[constant[1]] = _number(constant[2], constant[3], constant[4])
            elif fields is None and code == "typedef struct {":
                fields, notes = [], []
            elif fields is None:
                if code and code not in BOILERPLATE and code not in ("typedef void real;", "typedef void pixel;"):
                    raise AbiError("is not understood")
            elif code.startswith("} "):
                if not code.startswith(f"}} {PREFIX}") or not code.endswith(";"):
                    raise AbiError("must name the struct, such as `} splatlearn_NAME;`")
                abi.structs.append(Struct(code[2:-1].removeprefix(PREFIX), _with_options(fields, notes)))
                fields = None
            elif code:
                declared = _declared(code, abi)
                fields += declared
                notes.append(([comment], declared))
            elif comment and notes:
                notes[-1][0].append(comment)
        except AbiError as error:
            raise AbiError(f"{header.name}, line {number}: `{text.strip()}` {error}") from None
    if fields is not None or stages is not None:
        raise AbiError(f"{header.name} ends within a declaration")
    return abi


def _match(pattern: re.Pattern[str], code: str) -> re.Match[str]:
    found = pattern.fullmatch(code)
    if not found:
        raise AbiError("is not understood")
    return found


def _known(name: str, abi: Abi) -> str:
    if name not in {struct.name for struct in abi.structs}:
        raise AbiError(f"names {name}, which is no struct above it")
    return name


def _number(dividend: str | None, divisor: str | None, value: str | None) -> str:
    numbers = [text for text in (dividend, divisor, value) if text]
    for text in numbers:
        if not re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", text):
            raise AbiError("must be a number, or a quotient of two such as (1.0 / 255)")
    return " / ".join(numbers)


def _declared(code: str, abi: Abi) -> list[Field]:
    constant, base, declarators = _match(FIELDS, code).groups()
    fields = []
    for text in declarators.split(", "):
        star, name, count = _match(DECLARATOR, text).groups()
        if base.startswith(PREFIX):
            kind = _known(base.removeprefix(PREFIX), abi)
        elif base in (POINTEES if star else SCALARS):
            kind = base
        else:
            raise AbiError(f"has a type that is not understood: {base}")
        if kind != base and count or constant and not star:
            raise AbiError("is not understood")
        c_type = (constant or "") + kind + (" *" if star else "") + (f"[{count}]" if count else "")
        fields.append(Field(name, c_type, False))
    return fields


def _with_options(fields: list[Field], notes: list[tuple[list[str], list[Field]]]) -> list[Field]:
    """The fields, those marked that a comment calls optional."""
    optional = set()
    for comment, declared in notes:
        if "or null" in " ".join(" ".join(comment).split()):
            optional |= {field.name for field in declared}
    return [field._replace(optional="*" in field.c_type and field.name in optional) for field in fields]


def python_source(abi: Abi) -> str:
    """The text of splatlearn/ops/abi.py, as ruff formats it."""
    names = [*abi.constants, *(struct.name for struct in abi.structs), *abi.stages]
    parts = [HEAD, _listed("__all__ = [", [f'"{name}"' for name in names], "]")]
    parts.append("\n".join(f"{name} = {value}" for name, value in abi.constants.items()))
    for struct in abi.structs:
        lines = [f"\n\n@struct\nclass {struct.name}(ctypes.Structure):"]
        lines += [f"    {field.name}: {_annotation(field, abi)}" for field in struct.fields]
        parts.append("\n".join(lines))
    parts.append("\n")
    for name, stages in abi.stages.items():
        entries = [f'    "{stage}": {struct},' for stage, struct in stages.items()]
        parts.append("\n".join([f"{name}: dict[str, type[ctypes.Structure]] = {{", *entries, "}"]))
    return "\n".join(parts) + "\n"


def _listed(opening: str, words: list[str], closing: str) -> str:
    return "\n".join([opening, *(f"    {word}," for word in words), closing])


def _annotation(field: Field, abi: Abi) -> str:
    kind = field.c_type
    base = kind.split(" *")[0].removeprefix("const ")
    if kind in {struct.name for struct in abi.structs}:
        return kind
    if base not in POINTEES and base.split("[")[0] not in SCALARS:
        python = f"ctypes.Array[{base}]"
    elif "*" in kind:
        python = "int" if base == "void" else "Tensor"
    else:
        python = SCALARS[kind.split("[")[0]]
    if kind.endswith("]"):
        python = f"Sequence[{python}]"
    return f'Annotated[{python}{" | None" if field.optional else ""}, "{kind}"]{" = None" if field.optional else ""}'


def layout_source(abi: Abi, header: Path, sources: str) -> str:
    """The text of the C++ file that a library reports its ABI with.

    Args:
        header: the header that the library's other files include.
        sources: digest of the sources that the library is compiled from.
    """
    checks, rows = [], [f'{{"{name}", double(SPLATLEARN_{name})}},' for name in abi.constants]
    known = {struct.name for struct in abi.structs}
    for struct in abi.structs:
        owner = PREFIX + struct.name
        for field in struct.fields:
            c_type = re.sub(r"\w+", lambda word: PREFIX + word[0] if word[0] in known else word[0], field.c_type)
            same = f"std::is_same<decltype({owner}::{field.name}), {c_type}>::value"
            checks.append(f'static_assert({same}, "{struct.name}.{field.name}");')
            rows.append(f'{{"{struct.name}.{field.name} {field.c_type}", double(offsetof({owner}, {field.name}))}},')
        rows.append(f'{{"sizeof {struct.name}", double(sizeof({owner}))}},')
    body = "\n".join(checks) + "\nconst Row rows[] = {\n" + textwrap.indent("\n".join(rows), "    ")
    return LAYOUT.format(header=header, body=body, sources=sources)


LAYOUT = """\
// Written by build_native/abi.py from csrc/abi.h.
#include <cstddef>
#include <type_traits>

#include "{header}"

#define SPLATLEARN_EXPORT extern "C" __attribute__((visibility("default")))

namespace {{

struct Row {{
    const char *name;  // of a constant; a field with its type; or a struct, for its size
    double number;
}};

{body}
    {{nullptr, 0.}},
}};

}}  // namespace

SPLATLEARN_EXPORT const void *splatlearn_abi() {{ return rows; }}
SPLATLEARN_EXPORT const char *splatlearn_sources() {{ return "{sources}"; }}
"""
