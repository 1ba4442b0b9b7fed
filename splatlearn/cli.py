"""The command line: finds the command, and turns errors into one sentence on stderr and a non-zero exit status."""

import argparse
import difflib
import sys
from collections.abc import Sequence

from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError
from splatlearn.loop import Interrupted

COMMANDS = {
    "demo": "photographs of a still life, structure from motion, a trained scene: everything, on its own data",
    "reconstruct": "photographs or a video to a COLMAP folder, with a report: splatlearn reconstruct PHOTOS OUT",
    "train": "learn a line, a scene or a language: splatlearn train configs/scene.yaml --data.path MY_COLMAP_FOLDER",
    "eval": "measure a run on held-out photographs or text",
    "render": "pictures or a video of a run: held-out views, an orbit, a flight through the photographs",
    "export": "a run as PLY, .splat, SPZ, glTF, or as one HTML file that shows the scene in any browser",
    "convert": "a scene's file from one of these formats into another",
    "view": "a run or a splat file in the browser, with the photographs and a recorder of camera paths",
    "compare": "two runs side by side: figures, curves, and views under a slider",
    "sample": "a trained Transformer goes on with a prompt, or answers it",
    "figures": "every figure of the story, for print and as animations; --html writes the interactive page",
    "check-gradients": "compare analytic with numeric gradients, link by link, and name what breaks the chain",
    "bench": "time every stage of a training step",
    "doctor": "what is installed here, what works, and how to mend what does not",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for an error, which is one sentence on stderr, 130 after Ctrl-C."""
    import splatlearn

    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = Parser(
        "", splatlearn.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:<15} {text}" for name, text in COMMANDS.items())
        + "\n\n`splatlearn COMMAND --help` lists the options of a command.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"splatlearn {splatlearn.__version__}")
    parser.add_argument("command", metavar="COMMAND")
    if not words:
        parser.print_help()
        return 0
    command = words[0]
    if command in ("-h", "--help", "--version"):
        parser.parse_args(words[:1])  # prints and exits
    if command not in COMMANDS:
        nearest = max(COMMANDS, key=lambda name: difflib.SequenceMatcher(None, name, command).ratio())
        print(f"splatlearn: unknown command {command!r}; the nearest one is {nearest!r}", file=sys.stderr)
        return 1
    try:
        return _run(command, words[1:])
    except (SplatlearnError, NotImplementedError) as error:
        print(f"splatlearn {command}: {error}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        print(f"\n{interrupted}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


def _run(command: str, words: list[str]) -> int:
    # Imported here, so that one command does not pay for another's libraries.
    from importlib import import_module

    code = import_module(f"splatlearn.commands.{command.replace('-', '_')}").run(words)
    return int(code or 0)
