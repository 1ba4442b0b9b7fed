"""splatlearn train: learns what a config says, evaluates it, and leaves a run folder."""

import os
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splatlearn import config as configs
from splatlearn import trainer
from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError
from splatlearn.processes import leave
from splatlearn.registry import import_from
from splatlearn.run import task_class
from splatlearn.scene.reconstruct.ready import is_photographs

USAGE = """splatlearn train CONFIG [--key.sub value ...] [--viewer [--viewer-port N] [--viewer-host HOST]]
       splatlearn train PHOTOS [--key.sub value ...]
       splatlearn train --resume RUN [--allow-changed-data] [--key.sub value ...]"""

ABOUT = """Learns what CONFIG says, a file or one that came with splatlearn (configs/line.yaml, scene.yaml, text.yaml or
another there), into a new run folder; Ctrl-C saves. PHOTOS, a COLMAP folder, a folder of photographs or a video, is
learned by the recipe of configs/scene.yaml. --resume goes on from the last checkpoint of RUN, bit for bit as if it had
never stopped (on the CPU). --viewer shows a scene in the browser, with pause, resume, step and charts."""


def run(words: list[str]) -> None:
    parser = Parser("train", ABOUT, usage=USAGE, add_help=False, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=os.path.expanduser, metavar="CONFIG", help="a config file; or PHOTOS")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="the run folder to go on with")
    parser.add_argument(
        "--allow-changed-data", action="store_true", help="with --resume, go on although the data changed"
    )
    parser.add_argument("--viewer", action="store_true", help="show a scene in the browser while it learns")
    parser.add_argument("--viewer-port", metavar="N", help="the viewer's port; also switches it on")
    parser.add_argument("--viewer-host", metavar="HOST", help="the viewer's address; also switches it on")
    parser.add_argument("-h", "--help", action="store_true", help="with a config, list all its keys")
    options, keys = parser.parse_with_keys(words)
    if options.source is None and options.resume is None and (options.help or not words):
        print(parser.format_help())
        return
    live = _address(options)
    if options.resume is not None:
        if options.source is not None:
            raise SplatlearnError(f"--resume takes the config of the run, got the config {options.source!r} too")
        allow = options.allow_changed_data
        _shown(live, lambda observers: trainer.resume(options.resume, keys, observers, allow_changed_data=allow))
        return
    if options.allow_changed_data:
        raise SplatlearnError("--allow-changed-data is for --resume RUN, but a new run begins")
    if options.source is None:
        raise SplatlearnError("expected a config file such as configs/scene.yaml first, got nothing")
    if is_photographs(Path(options.source)):
        path, keys = configs.shipped("scene.yaml"), ["--data.path", options.source, *keys]
    else:
        path = _config(options.source)
        import_from(path.parent)  # a task of the user's own may be in a file beside its config
    cls = task_class(path)
    if options.help:
        given = configs.load(cls.Config, path)
        about = f"keys, and what they are in {path} or else by default:\n{configs.help_text(cls.Config, given)}"
        print(f"{parser.format_help()}\n{about}")
        return
    config = configs.load(cls.Config, path, keys)
    _shown(live, lambda observers: trainer.train(cls, config, observers))


def _address(options: Namespace) -> tuple[str, int] | None:
    """Host and port of the viewer, or None without one; raises SplatlearnError where nothing can listen there."""
    if not options.viewer and options.viewer_port is None and options.viewer_host is None:
        return None
    from splatlearn.viewer.live import check_address
    from splatlearn.viewer.server import HOST, PORT

    host = HOST if options.viewer_host is None else options.viewer_host
    port = str(PORT) if options.viewer_port is None else options.viewer_port
    if not port.isdecimal():
        raise SplatlearnError(f"--viewer-port must be a number, got {port!r}")
    check_address(host, int(port))
    return host, int(port)


def _shown(live: tuple[str, int] | None, train: Callable[[trainer.Observers], object]) -> None:
    """Train, with a viewer on host and port `live`."""
    views: list[Any] = []

    def observers(task: Any, folder: Path) -> list[Any]:
        from splatlearn.viewer.live import live_view

        if live is not None:
            views.append(live_view(task, folder, live))
        return views

    try:
        train(observers)
    finally:
        for view in views:
            view.close()
    leave()


def _config(name: str) -> Path:
    """The file of this name, or the config of this name that came with splatlearn."""
    path = Path(name)
    if not path.is_file() and path.parent in (Path("."), Path("configs")):
        path = configs.shipped(path.name)
    if not path.is_file():
        raise SplatlearnError(f"expected a config file such as configs/scene.yaml first, got {name!r}")
    return path
