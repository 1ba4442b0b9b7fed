"""splatlearn export: writes a run's Gaussians as a PLY of the original 3DGS, in the frame of its COLMAP model."""

from pathlib import Path

from splatlearn.commands.arguments import Parser
from splatlearn.commands.opened import load_gaussians
from splatlearn.errors import SplatlearnError


def run(words: list[str]) -> None:
    parser = Parser("export", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder of a scene")
    parser.add_argument("--out", type=Path, help="the file to write (default: RUN/point_cloud.ply)")
    arguments = parser.parse_args(words)
    out = arguments.out or arguments.run / "point_cloud.ply"
    if out.suffix.lower() != ".ply":
        raise SplatlearnError(f"--out must end in .ply, got {out}")
    gaussians = load_gaussians(arguments.run)
    gaussians.save_ply(out)
    print(f"wrote {len(gaussians):,} Gaussians to {out}")
