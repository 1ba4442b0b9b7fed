"""The command line: finds the command, and turns errors into one sentence on stderr and a non-zero exit status."""

import argparse
import atexit
import difflib
import errno
import os
import re
import reprlib
import sys
from collections.abc import Sequence

from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError, brief
from splatlearn.interrupt import Handling, Interrupted, handled, number_of
from splatlearn.streams import kept

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

NO_MEMORY = re.compile(r"not enough memory|can't allocate memory|calculation overflowed|[Oo]ut of memory")  # of PyTorch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0; 1 for an error, which is one sentence on stderr, or where the output could not be written;
        130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = " ".join(["splatlearn", *words[:1]])
    with kept() as output, handled(name) as handling:
        try:
            status = _status(words, name, handling)
        except SystemExit as ending:  # of --help and --version
            status = int(ending.code or 0)
        status = output.status(status)
    if status > 128 and arguments is None:
        # Python would end by SIGINT, without this status, where a KeyboardInterrupt has left an exec() on its way here.
        atexit._run_exitfuncs()
        os._exit(status)
    return status


def _status(words: list[str], name: str, handling: Handling) -> int:
    try:
        return _found(words, handling)
    except Interrupted as interrupted:
        return _ended(f"\n{interrupted}", 128 + interrupted.number)
    except KeyboardInterrupt as stopped:
        return _ended(f"\n{name}: stopped; the same command begins again", 128 + number_of(stopped))
    except (SplatlearnError, NotImplementedError) as error:
        return _ended(f"{name}: {_sentence(error)}", 1)
    except Exception as error:
        if not handling.received:
            if reason := _reason(error):
                return _ended(f"{name}: {reason}", 1)
            raise
        # Code of others has made another error of the signal.
        return _ended(f"\n{name}: stopped; the same command begins again", 128 + handling.received)


def _sentence(error: object) -> str:
    """A message as one printable line, in which what no name of a file can be is cut."""
    return brief(re.sub(r"\S{201,}", lambda found: f"{found[0][:60]}…{found[0][-20:]}", str(error)), 600)


def _reason(error: Exception) -> str:
    """What a user can correct about an error of Python or PyTorch, or ""."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"the name of a file or folder is too long: {_sentence(error.filename)}"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))):
        return f"there is not enough memory for a config or an input of this size ({brief(error) or 'no details'})"
    return ""


def _ended(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr)
    return status


def _found(words: list[str], handling: Handling) -> int:
    """Find the command, or print what there is, and run it."""
    import splatlearn

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
        nearest = max(COMMANDS, key=lambda name: difflib.SequenceMatcher(None, name, command[:40]).ratio())
        shown = reprlib.repr(command)
        print(f"splatlearn: unknown command {shown}; the nearest one is {nearest!r}", file=sys.stderr)
        return 1
    # Imported here, so that one command does not pay for another's libraries.
    from importlib import import_module

    code = import_module(f"splatlearn.commands.{command.replace('-', '_')}")
    handling.running()
    return int(code.run(words[1:]) or 0)
