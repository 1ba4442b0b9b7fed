"""splatlearn eval: measures a run on held-out data; writes figures and images into its eval folder, and the report.

Further words change the config: --lpips also measures the perceptual distance of a scene.
"""

from pathlib import Path

from splatlearn import notices, trainer
from splatlearn.commands.arguments import Parser
from splatlearn.run import config_of, locked, open_run


def run(words: list[str]) -> None:
    parser = Parser("eval", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--allow-changed-data", action="store_true", help="go on although the data changed")
    arguments, overrides = parser.parse_with_keys(words)
    config_of(arguments.run)
    with locked(arguments.run, "splatlearn eval"), notices.recording() as warnings:
        task, step = open_run(arguments.run, overrides, allow_changed_data=arguments.allow_changed_data)
        warnings.write_into(arguments.run)
        print(task.summarize(trainer.evaluate(task, arguments.run, step)))
