"""Where photographs were taken: points and cameras of a scene in a canvas to be turned; and the scene itself."""

import base64
import json

import numpy as np

from splatlearn.scene.cameras import Camera
from splatlearn.scene.space import MOST_POINTS
from splatlearn.show.report_html import bytes_told, escaped
from splatlearn.show.report_views import picture_stem
from splatlearn.show.run_folder import RunFolder, is_number

MOST_CAMERAS = 2000
VIEWER_GAUSSIANS = 100_000  # of the scene inside a page; more make it slow to open

STYLE = """
.space { padding: 0; overflow: hidden; position: relative; }
.space canvas { display: block; width: 100%; height: min(64vh, 480px); cursor: grab; touch-action: pan-y pinch-zoom; }
.space canvas:focus-visible { outline: 3px solid var(--accent); outline-offset: -3px; }
.space .tools { position: absolute; right: 12px; top: 12px; display: flex; gap: 6px; }
.space .tools .small { background: var(--card); min-width: 34px; }
.space output { position: absolute; left: 16px; bottom: 10px; font-size: 13px; color: var(--soft);
  background: var(--card); border-radius: 7px; padding: 0 6px; }
.embed { padding: 14px; } .embed iframe { display: block; width: 100%; border: 0; border-radius: 10px; }
.main { background: var(--accent); border: 0; color: var(--paper); font: inherit; border-radius: 10px;
  padding: 10px 18px; cursor: pointer; }
"""


def space_section(run: RunFolder) -> str:
    """The canvas, or "" for a run that does not tell where its cameras are."""
    cameras, points = read_cameras(run), _read_points(run)
    if not cameras:
        return ""
    tested = {camera.name for camera, split in cameras if split == "test"}
    rows = {str(row["name"]): row for row in run.view_scores()[1]}
    told = []
    for camera, split in cameras[:MOST_CAMERAS]:
        row = rows.get(camera.name, {})
        psnr = row.get("psnr")
        corners = _corners(camera)
        told.append(
            {
                "name": camera.name,
                "held": split == "test",
                "view": picture_stem({**row, "name": camera.name}),
                "psnr": f"{psnr:.2f} dB" if is_number(psnr) else "",
                "center": [_rounded(v) for v in camera.center],
                "corners": [[_rounded(v) for v in corner] for corner in corners],
            }
        )
    up = -np.mean([camera.world_to_camera[1, :3] for camera, _ in cameras], axis=0)
    data = {"cameras": told, "points": points, "up": [_rounded(v) for v in up]}
    trained = len(cameras) - len(tested)
    held = f'<span class="key hue2">{len(tested)} held out</span>' if tested else ""
    legend = f'<span class="key hue1">{trained} trained on</span>{held}'
    label = f"{len(points)} points and {len(cameras)} cameras in three dimensions; drag or use the arrow keys to turn"
    return f"""<h2>Where the photographs were taken</h2><p>Points of the model, and a pyramid for each photograph:
{legend}. Drag to turn; point at a camera for its name, select it to see its view.</p>
<div class="card space" data-space="{escaped(json.dumps(data))}"><canvas tabindex="0" role="img" aria-label="{label}">
</canvas><div class="tools"><button class="small" data-zoom="0.8" aria-label="nearer">+</button>
<button class="small" data-zoom="1.25" aria-label="farther">−</button></div><output></output></div>"""


def viewer_section(run: RunFolder) -> str:
    """The scene in the embedded viewer, which starts with a click; "" where there is no point_cloud.ply to read."""
    from splatlearn.errors import SplatlearnError
    from splatlearn.scene.formats.ply import read_ply
    from splatlearn.show.viewer_page import viewer_html

    path = run.folder / "point_cloud.ply"
    if not path.is_file():
        return ""
    try:
        tensors = read_ply(path)
        cameras = [camera for camera, _ in read_cameras(run)]
        antialiased = run.config.get("antialiased") is True
        document = viewer_html(
            tensors, cameras, title=run.folder.resolve().name, antialiased=antialiased, sh_degree=1,
            limit=VIEWER_GAUSSIANS,
        )  # fmt: skip
    except (SplatlearnError, OSError):
        return ""
    count = len(tensors["means"])
    some = f" It shows the {VIEWER_GAUSSIANS:,} that matter most of {count:,}." if count > VIEWER_GAUSSIANS else ""
    content = base64.b64encode(document.encode("utf-8")).decode("ascii")
    return f"""<h2>The scene itself</h2><p>It is inside this page ({bytes_told(len(content))}),
and your browser draws it.{some}</p>
<div class="card embed"><button class="main" data-scene="{content}">Open the scene</button></div>"""


def read_cameras(run: RunFolder) -> list[tuple[Camera, str]]:
    """The cameras of eval/space.json with their split; [] where that is damaged."""
    found = []
    try:
        for row in run.space.get("cameras", []):
            pose = np.array(row["world_to_camera"], dtype=np.float64).reshape(4, 4)
            (fx, fy), (cx, cy) = row["focal"], row["principal"]
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
            size = int(row["width"]), int(row["height"])
            if np.isfinite(pose).all() and np.isfinite(K).all() and min(*size, fx, fy) > 0:
                found.append((Camera(str(row["name"]), *size, K, pose), str(row["split"])))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return []
    return found


def _read_points(run: RunFolder) -> list[list[float]]:
    rows = run.space.get("points")
    if not isinstance(rows, list):
        return []
    return [row for row in rows[:MOST_POINTS] if isinstance(row, list) and len(row) == 6 and all(map(is_number, row))]


def _corners(camera: Camera) -> np.ndarray:
    """Where the four corner rays of the picture point to, [4, 3] world, at depth 1 from the centre."""
    pixels = np.array([[0, 0, 1], [camera.width, 0, 1], [camera.width, camera.height, 1], [0, camera.height, 1.0]])
    rays = pixels @ np.linalg.inv(camera.K).T
    return np.asarray(rays @ camera.world_to_camera[:3, :3])


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
