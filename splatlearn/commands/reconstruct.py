"""splatlearn reconstruct: from photographs or a video to a COLMAP folder, with a report in plain words.

It writes OUT/images (copies), OUT/sparse/0 (the model), and the report as OUT/reconstruction.txt and .json. Photographs
are only ever read. The same command goes on where an earlier one was stopped.
"""

from pathlib import Path

from splatlearn.commands.arguments import Parser
from splatlearn.scene.reconstruct.ready import reconstruct_and_report


def run(words: list[str]) -> None:
    parser = Parser("reconstruct", __doc__)
    parser.add_argument("source", type=Path, metavar="PHOTOS_OR_VIDEO", help="a folder of photographs, or a video")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; new, or of a run that was stopped")
    parser.add_argument("--frames", type=int, help="frames to take of a video (default: 2 a second, 30 to 150)")
    parser.add_argument("--max-size", type=int, help="longer side of the copies in pixels (default: as they are)")
    parser.add_argument(
        "--cameras", default="auto", help="auto (alike by size and EXIF), shared or per-image (default: auto)"
    )
    parser.add_argument("--camera-model", default="OPENCV", help="COLMAP's camera model (default: OPENCV)")
    parser.add_argument(
        "--matching", default="auto", help="auto (by count), exhaustive (all pairs) or sequential (neighbours by name)"
    )
    parser.add_argument("--masks", type=Path, help="folder of masks in COLMAP's naming: photo.jpg.png, black: ignored")
    parser.add_argument("--max-features", type=int, default=4096, help="SIFT features a photograph (default: 4096)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random (default: 0)")
    parser.add_argument("--threads", type=int, help="threads (default: all; with 1 a run repeats to the bit)")
    a = parser.parse_args(words)
    reconstruct_and_report(
        a.source,
        a.out,
        cameras=a.cameras,
        camera_model=a.camera_model,
        matching=a.matching,
        frames=a.frames,
        max_size=a.max_size,
        masks=a.masks,
        max_features=a.max_features,
        seed=a.seed,
        threads=a.threads,
    )
    print(f"wrote {a.out}; to learn the scene: splatlearn train configs/scene.yaml --data.path {a.out}")
