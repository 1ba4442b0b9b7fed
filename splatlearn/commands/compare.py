"""splatlearn compare: two runs side by side: figures and their differences, curves, views under a slider."""

from pathlib import Path

from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError


def run(words: list[str]) -> None:
    parser = Parser("compare", __doc__)
    parser.add_argument("first", type=Path, metavar="RUN_A", help="a run folder")
    parser.add_argument("second", type=Path, metavar="RUN_B", help="another one")
    parser.add_argument("--out", type=Path, help="the page to write (default: A_and_B.html here)")
    arguments = parser.parse_args(words)
    from splatlearn.show.report.compare import summary, write_comparison

    first, second = arguments.first, arguments.second
    out = arguments.out or Path(f"{first.resolve().name}_and_{second.resolve().name}.html")
    if out.suffix.lower() not in (".html", ".htm"):
        raise SplatlearnError(f"--out must end in .html, got {out}")
    print(summary(first, second))
    print(f"wrote {write_comparison(first, second, out)}")
