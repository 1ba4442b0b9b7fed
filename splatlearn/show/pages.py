"""Rendering of the HTML pages from jinja2 templates with autoescape, and the CSS and JavaScript inside a page.

A page is one file that loads nothing. `templates/` and `assets/` here hold what all pages share, and those of the story
and of the scene page; the folders of `report/` hold those of the report and of the comparison.
"""

import base64
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splatlearn.files import replacing

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDERS = (Path(__file__).parent, Path(__file__).parent / "report")


def render(template: str, **values: Any) -> str:
    """Render a template.

    Args:
        template: name of a file in one of the `templates` folders.
        values: what the template names. Every string is escaped where it is written into the page.
    """
    return _environment().get_template(template).render(values)


def write_page(path: Path, document: str) -> Path:
    """Write a document whole or not at all; names of files that are not valid text become question marks."""
    with replacing(path) as temporary:
        temporary.write_text(document, encoding="utf-8", errors="replace")
    return path


def data_uri(kind: str, content: bytes) -> str:
    """A ``data:`` URI of a media type and its content."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def read_asset(name: str) -> str:
    """The text of a file in one of the `assets` folders."""
    paths = [folder / "assets" / name for folder in FOLDERS]
    return next(path for path in paths if path.exists()).read_text(encoding="utf-8")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([folder / "templates" for folder in FOLDERS]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}
    environment.globals["asset"] = lambda name: Markup(read_asset(name))
    environment.filters["count"] = lambda number: f"{number:,}"
    return environment
