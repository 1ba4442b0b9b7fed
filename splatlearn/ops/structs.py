"""Makes ctypes structs of annotated classes, which are filled by keyword: numbers as they are, tensors as pointers."""

import ctypes
import inspect
import re
from collections.abc import Iterator, Sequence
from ctypes import POINTER, Structure, c_double, c_int32, c_int64, c_void_p, sizeof
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

from torch import Tensor

T = TypeVar("T", bound=Structure)
_SCALARS = {"int32_t": c_int32, "int64_t": c_int64, "double": c_double}

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # for type checkers only: they then know the keywords and their types
    dataclass_transform = lambda **_: lambda decorator: decorator  # noqa: E731  (mkdocstrings reads only one def)


@dataclass_transform(kw_only_default=True)
def struct(cls: type[T]) -> type[T]:
    """Gives a class of annotations the C fields that they name, and a constructor with one keyword per field.

    A field is `name: Struct`, or `name: Annotated[type in Python, "type in C"]`, with ` = None` if its pointer may be
    null. A tensor becomes the address of its first scalar. A struct keeps its tensors alive.
    """
    fields, keywords, values, kept = [], [], [], []
    c_types: dict[str, str] = {}
    pointers: dict[str, bool] = {}
    scope: dict[str, Any] = {"Structure": Structure, "c_array": c_array, "addresses": addresses, "refuse": refuse}
    for name, annotation in inspect.get_annotations(cls).items():
        optional = name in cls.__dict__
        if optional:
            delattr(cls, name)  # the default, whose place the C field takes
        c_types[name], kind, value = _converted(name, annotation, optional)
        fields.append((name, kind))
        keywords.append(f"{name}=None" if optional else name)
        values.append(value)
        if "data_ptr" in value:
            pointers[name] = optional
        if kind not in _SCALARS.values():
            kept.append(name)
        scope[f"type_of_{name}"] = kind
    scope["pointers"] = pointers
    cls._fields_ = fields
    cls.c_types = c_types  # type: ignore[attr-defined]
    lines = [f"def __init__(self, *, {', '.join(keywords)}):"]
    lines += ["    try:", f"        Structure.__init__(self, {', '.join(values)})"]
    lines += ["    except AttributeError:", "        refuse(pointers, locals())"]
    exec("\n".join([*lines, f"    self.kept = ({', '.join(kept)},)"]), scope)
    scope["__init__"].__qualname__ = f"{cls.__name__}.__init__"
    cls.__init__ = scope["__init__"]  # type: ignore[method-assign]
    return cls


def _converted(name: str, annotation: Any, optional: bool) -> tuple[str, Any, str]:
    """A field's type in C by name, its ctypes type, and the expression that makes its value of the keyword's."""
    if get_origin(annotation) is not Annotated:
        return annotation.__name__, annotation, name
    python, c_type = get_args(annotation)
    found = re.fullmatch(r"(?:const )?(\w+)( \*)?(?:\[(\d+)\])?", c_type)
    assert found, f"no type of a C field: {c_type}"
    kind: Any = c_void_p if found[2] else _SCALARS[found[1]]
    if found[3]:
        convert = "addresses" if found[2] else "c_array"
        return c_type, kind * int(found[3]), f"{convert}(type_of_{name}, {name})"
    if get_origin(python) is ctypes.Array:  # structs: the pointer keeps them alive
        return c_type, POINTER(get_args(python)[0]), name
    if not found[2] or found[1] == "void":
        return c_type, kind, name
    address = f"{name}.data_ptr()"
    return c_type, kind, f"None if {name} is None else {address}" if optional else address


def refuse(pointers: dict[str, bool], given: dict[str, Any]) -> None:
    """Raises for the first of these pointers, by name whether it may be null, that was given no tensor."""
    for name, optional in pointers.items():
        value = given[name]
        if not (isinstance(value, Tensor) or optional and value is None):
            struct_name = type(given["self"]).__name__
            raise TypeError(f"{struct_name}.{name} is a {type(value).__name__}, but takes a tensor") from None


def c_array(kind: Any, values: Sequence[Any]) -> Any:
    """An array of a ctypes type from exactly as many values."""
    if len(values) != kind._length_:
        raise ValueError(f"a field takes {kind._length_} values, but got {len(values)}")
    return kind(*values)


def addresses(kind: Any, tensors: Sequence[Tensor]) -> Any:
    """An array of pointers from exactly as many tensors."""
    return c_array(kind, [tensor.data_ptr() for tensor in tensors])


def layout(structs: Sequence[type[Structure]]) -> Iterator[tuple[str, float]]:
    """Fields with their C types and offsets in bytes, and the size of each struct, as a library reports its own."""
    for cls in structs:
        for name, c_type in cls.c_types.items():  # type: ignore[attr-defined]
            yield f"{cls.__name__}.{name} {c_type}", getattr(cls, name).offset
        yield f"sizeof {cls.__name__}", sizeof(cls)
