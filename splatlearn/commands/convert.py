"""splatlearn convert: a scene's file from one format into another, by the suffixes of the two names."""

from pathlib import Path

from splatlearn.commands.arguments import Parser
from splatlearn.commands.export import add_options, convert
from splatlearn.errors import SplatlearnError
from splatlearn.scene.formats.registry import suffixes


def run(words: list[str]) -> None:
    parser = Parser("convert", __doc__)
    parser.add_argument("source", type=Path, metavar="IN", help=", ".join(suffixes()))
    parser.add_argument("out", type=Path, metavar="OUT", help=f"{', '.join(suffixes())}, .html")
    add_options(parser)
    arguments = parser.parse_args(words)
    if not arguments.source.is_file():
        raise SplatlearnError(f"{arguments.source} is not a file (of a run folder, use `splatlearn export`)")
    convert(arguments.source, arguments.out, arguments)
