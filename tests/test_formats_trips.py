"""Round trips through every format, judged by what the rasterizer draws; independent readers and writers beside us."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from format_scenes import Tensors, cameras, lopsided, pictures, worst_psnr

from splatlearn.errors import SplatlearnError
from splatlearn.ops.reference import harmonics
from splatlearn.scene.cameras import Camera
from splatlearn.scene.formats import gltf, registry, spz, spz_attributes
from splatlearn.scene.formats.sh_rotation import HALF_TURN, basis, rotate_scene, sh_rotation
from splatlearn.scene.gaussians import Gaussians

LOSSLESS, LOSSY = 45, 35  # dB that a round trip keeps
# name of the file, how it is written, highest SH degree of the format, least PSNR against the scene at that degree
TRIPS: dict[str, tuple[str, dict[str, Any], int, float]] = {
    "ply": ("a.ply", {}, 4, LOSSLESS),
    "splat": ("a.splat", {}, 0, LOSSY),
    "spz 3": ("a.spz", {"spz_version": 3}, 4, LOSSY),
    "spz 4": ("a.spz", {"spz_version": 4}, 4, LOSSY),
    "glb": ("a.glb", {}, 3, LOSSLESS),
    "gltf": ("a.gltf", {}, 3, LOSSLESS),
    "gltf embedded": ("a.gltf", {"embed": True}, 3, LOSSLESS),
}


@pytest.mark.parametrize("trip", TRIPS)
@pytest.mark.parametrize("degree", range(5))
def test_what_is_read_back_looks_the_same(tmp_path: Path, trip: str, degree: int) -> None:
    name, options, highest, least = TRIPS[trip]
    scene = lopsided(degree)
    registry.write(tmp_path / name, scene, **options)
    back = registry.read(tmp_path / name).tensors
    kept = min(degree, highest)
    assert back["shN"].shape[1] == (kept + 1) ** 2 - 1, "harmonics that the format holds are lost"
    seen = worst_psnr(pictures(scene, kept), pictures(back))
    assert seen >= least, f"{trip} at degree {degree} keeps only {seen:.1f} dB"
    mirrored = worst_psnr(pictures(scene, kept), pictures(rotate_scene_of(back, HALF_TURN)))
    assert mirrored < 25, "the scene is too even to show a lost turn: the test above proves nothing"


def rotate_scene_of(tensors: Tensors, rotation: np.ndarray) -> Tensors:
    turned = rotate_scene({key: value.numpy() for key, value in tensors.items()}, rotation)
    return {key: torch.from_numpy(value) for key, value in turned.items()}


@pytest.mark.parametrize("suffix", ["ply", "splat", "spz", "glb"])
def test_one_gaussian_and_none(tmp_path: Path, suffix: str) -> None:
    one = lopsided(1, 1)
    registry.write(tmp_path / f"one.{suffix}", one)
    back = registry.read(tmp_path / f"one.{suffix}").tensors
    assert torch.allclose(back["means"], one["means"], atol=1e-3), "a single Gaussian moves"
    none = {key: value[:0] for key, value in one.items()}
    if suffix in ("splat", "glb"):  # a file of no bytes, a primitive of no points: neither is a file of that format
        registry_refuses(tmp_path / f"none.{suffix}", none)
    else:
        registry.write(tmp_path / f"none.{suffix}", none)
        assert len(registry.read(tmp_path / f"none.{suffix}").tensors["means"]) == 0, "nothing becomes something"


def registry_refuses(path: Path, tensors: Tensors) -> None:
    with pytest.raises(SplatlearnError):
        registry.write(path, tensors)
        registry.read(path)


def test_extreme_values_survive(tmp_path: Path) -> None:
    """Opaque, transparent, flat, huge, far away: finite again in every format."""
    scene = lopsided(1, 6)
    scene["opacities"] = torch.tensor([40.0, -40.0, 200.0, -200.0, 0.0, 0.0])
    scene["scales"][:2] = torch.tensor([[-60.0, -60, -60], [85, 0, 0]])
    scene["means"][2] = torch.tensor([1e6, -1e6, 0])
    scene["quats"][3] = 0
    for name, options, *_ in TRIPS.values():
        registry.write(tmp_path / name, scene, **options)
        back = registry.read(tmp_path / name).tensors
        assert all(bool(value.isfinite().all()) for value in back.values()), f"{name} makes values that are not finite"
        assert back["opacities"][0] > 5 and back["opacities"][1] < -5, f"{name} confuses opaque and transparent"
        assert (back["means"][2] - scene["means"][2]).abs().max() <= 0.5, f"{name} moves what is far away"


def test_positions_beyond_spz_are_refused(tmp_path: Path) -> None:
    scene = lopsided(0, 2)
    scene["means"][0] = 1e8
    with pytest.raises(SplatlearnError, match="8,388,607"):
        registry.write(tmp_path / "a.spz", scene)
    assert not list(tmp_path.iterdir()), "a refused file is left behind"


def test_small_scenes_get_finer_steps(tmp_path: Path) -> None:
    scene = lopsided(0)
    small = {**scene, "means": scene["means"] / 500, "scales": scene["scales"] - np.log(500)}
    registry.write(tmp_path / "a.spz", small)
    back = registry.read(tmp_path / "a.spz").tensors
    large = {**back, "means": back["means"] * 500, "scales": back["scales"] + np.log(500)}
    seen = worst_psnr(pictures(scene), pictures(large))
    assert seen >= LOSSY, f"a scene of millimetres keeps only {seen:.1f} dB: 12 bits behind the point are too few"


@pytest.mark.parametrize("suffix", ["ply", "spz"])
def test_antialiasing_is_told(tmp_path: Path, suffix: str) -> None:
    for mode in (True, False):
        registry.write(tmp_path / f"a.{suffix}", lopsided(0, 3), antialiased=mode)
        assert registry.read(tmp_path / f"a.{suffix}").antialiased is mode, "viewers draw as it was not trained"


# ---- frames and harmonics ----


def test_basis_is_that_of_the_core() -> None:
    directions = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    found = torch.from_numpy(basis(directions.numpy()))
    assert torch.allclose(found, harmonics(directions, 4), atol=1e-12), "another convention of harmonics"


@pytest.mark.parametrize("degree", range(5))
def test_harmonics_turn_with_the_scene(degree: int) -> None:
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_quat([0.3, -0.5, 0.2, 0.8]).as_matrix()
    rows = slice(degree * degree, (degree + 1) ** 2)
    directions = np.random.default_rng(1).normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    matrix = sh_rotation(rotation, degree)
    assert np.allclose(basis(directions @ rotation.T)[:, rows] @ matrix, basis(directions)[:, rows], atol=1e-12)
    assert np.allclose(matrix @ matrix.T, np.eye(2 * degree + 1), atol=1e-12), "the colours lose or gain energy"


def test_a_turned_scene_looks_the_same_to_turned_cameras() -> None:
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_quat([0.3, -0.5, 0.2, 0.8]).as_matrix()
    scene, turn = lopsided(4), np.eye(4)
    turn[:3, :3] = rotation
    views = [Camera(c.name, c.width, c.height, c.K, c.world_to_camera @ turn.T) for c in cameras()]
    seen = worst_psnr(pictures(scene), pictures(rotate_scene_of(scene, rotation), views=views))
    assert seen > 60, f"means, quaternions and harmonics do not turn together: {seen:.1f} dB"


@pytest.mark.parametrize("suffix", ["spz", "glb"])
def test_y_is_up_in_the_file(tmp_path: Path, suffix: str) -> None:
    """What stands above in COLMAP (y down) has a larger y in the file, what is near a smaller -z."""
    scene = lopsided(0, 2)
    scene["means"] = torch.tensor([[1.0, -2.0, 3.0], [0.0, 1.0, 1.0]])
    registry.write(tmp_path / f"a.{suffix}", scene)
    if suffix == "glb":
        document, data = glb_parts(tmp_path / "a.glb")
        view = document["bufferViews"][document["accessors"][0]["bufferView"]]
        found = np.frombuffer(data, "<f4", 6, view["byteOffset"]).reshape(2, 3)
    else:
        import gsply

        found = gsply.read_spz(tmp_path / "a.spz").means
    assert np.allclose(found, [[1, 2, -3], [0, -1, -1]], atol=1e-3), "the frame is not x right, y up, z backward"


# ---- independent readers and writers ----


def as_gsply(tensors: Tensors) -> Any:
    import gsply

    arrays = {key: value.numpy() for key, value in tensors.items()}
    return gsply.GSData.from_arrays(
        means=arrays["means"], scales=arrays["scales"], quats=arrays["quats"], opacities=arrays["opacities"],
        sh0=arrays["sh0"][:, 0], shN=arrays["shN"] if arrays["shN"].shape[1] else None, format="ply",
    )  # fmt: skip


def from_gsply(data: Any) -> Tensors:
    count = len(data.means)
    shN = data.shN if data.shN is not None and np.asarray(data.shN).size else np.zeros((count, 0, 3), np.float32)
    parts = [data.means, data.scales, data.quats, data.opacities.reshape(-1), data.sh0.reshape(count, 1, 3), shN]
    names = ("means", "scales", "quats", "opacities", "sh0", "shN")
    return {
        name: torch.from_numpy(np.ascontiguousarray(part, np.float32)) for name, part in zip(names, parts, strict=True)
    }


@pytest.mark.parametrize("degree", range(4))
def test_gsply_and_we_read_each_others_ply(tmp_path: Path, degree: int) -> None:
    import gsply

    scene = lopsided(degree)
    registry.write(tmp_path / "ours.ply", scene)
    theirs = from_gsply(gsply.plyread(tmp_path / "ours.ply"))
    gsply.plywrite(tmp_path / "theirs.ply", as_gsply(scene))
    for other in (theirs, registry.read(tmp_path / "theirs.ply").tensors):
        for key, value in scene.items():
            assert torch.equal(other[key], value), f"{key} of a PLY means something else to gsply"


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("degree", range(4))
def test_gsply_and_we_read_each_others_spz(tmp_path: Path, degree: int, version: int) -> None:
    import gsply

    scene = lopsided(degree)
    registry.write(tmp_path / "ours.spz", scene, spz_version=version)
    ours = registry.read(tmp_path / "ours.spz").tensors
    theirs = rotate_scene_of(from_gsply(gsply.read_spz(tmp_path / "ours.spz")), HALF_TURN)  # it leaves SPZ's frame
    gsply.write_spz(tmp_path / "theirs.spz", as_gsply(rotate_scene_of(scene, HALF_TURN)), version=version)
    written = registry.read(tmp_path / "theirs.spz").tensors
    for key in ("means", "scales", "sh0", "shN"):
        assert torch.allclose(theirs[key], ours[key], atol=1e-6), f"{key} of our SPZ means something else to gsply"
    for key, step in (("means", 2**-12), ("scales", 1 / 16), ("sh0", 1 / (255 * 0.15)), ("shN", 1 / 128)):
        assert torch.allclose(written[key], scene[key], atol=step, rtol=0), f"{key} of gsply's SPZ is misread"
    assert worst_psnr(pictures(ours), pictures(theirs)) > 60, "rotations or opacities are told differently"
    assert worst_psnr(pictures(scene), pictures(written)) > LOSSY, "gsply's SPZ looks different"


def test_version_2_of_spz_is_read(tmp_path: Path) -> None:
    scene = lopsided(1)
    arrays = {key: value.numpy() for key, value in scene.items()}
    fraction, streams = spz_attributes.encode(arrays, tmp_path, (8, 8))
    turned = rotate_scene(arrays, HALF_TURN)["quats"].astype(np.float64)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True) * np.where(turned[:, :1] < 0, -1, 1)
    streams[4] = np.rint(127.5 * turned[:, 1:] + 127.5).astype(np.uint8).tobytes()
    with open(tmp_path / "old.spz", "wb") as file:
        spz._write_legacy(file, spz.Header(2, len(arrays["means"]), 1, fraction, 0), streams)
    back = registry.read(tmp_path / "old.spz").tensors
    assert worst_psnr(pictures(scene), pictures(back)) > 30, "quaternions of version 2 are misread"


def glb_parts(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    length = int.from_bytes(content[12:16], "little")
    return json.loads(content[20 : 20 + length]), content[28 + length :]


@pytest.mark.parametrize("name", ["a.glb", "a.gltf"])
def test_pygltflib_reads_ours(tmp_path: Path, name: str) -> None:
    import pygltflib

    scene = lopsided(3)
    registry.write(tmp_path / name, scene)
    document = pygltflib.GLTF2().load(str(tmp_path / name))
    assert document is not None and document.extensionsUsed == [gltf.EXTENSION]
    primitive = document.meshes[0].primitives[0]
    assert primitive.mode == pygltflib.POINTS and primitive.extensions[gltf.EXTENSION]["kernel"] == "ellipse"
    attributes = {k: v for k, v in vars(primitive.attributes).items() if v is not None}
    turned = rotate_scene_of(scene, HALF_TURN)

    def values(attribute: str) -> np.ndarray:
        accessor = document.accessors[attributes[attribute]]
        view = document.bufferViews[accessor.bufferView]
        data = (
            document.get_data_from_buffer_uri(document.buffers[view.buffer].uri)
            if name == "a.gltf"
            else (document.binary_blob())
        )
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor.type]
        return np.frombuffer(data, "<f4", accessor.count * width, view.byteOffset).reshape(-1, width)

    quats = torch.nn.functional.normalize(turned["quats"], dim=1)[:, [1, 2, 3, 0]]
    assert np.allclose(values("POSITION"), turned["means"]) and np.allclose(values(f"{gltf.EXTENSION}:ROTATION"), quats)
    assert np.allclose(values(f"{gltf.EXTENSION}:SCALE"), turned["scales"].exp()), "scales are not linear"
    assert np.allclose(values(f"{gltf.EXTENSION}:OPACITY")[:, 0], turned["opacities"].sigmoid(), atol=1e-6)
    assert np.allclose(values(f"{gltf.EXTENSION}:SH_DEGREE_2_COEF_3"), turned["shN"][:, 6], atol=1e-6)
    assert np.allclose(document.accessors[0].max, turned["means"].max(0).values), "bounds are wrong"


def test_pygltflibs_files_are_read_by_us(tmp_path: Path) -> None:
    """A document made by pygltflib: two primitives under a node that turns, shifts and shrinks, quantised rotations."""
    import pygltflib
    from scipy.spatial.transform import Rotation

    scene = lopsided(1, 60)
    turn, shift, size = Rotation.from_quat([0.1, 0.7, -0.2, 0.4]), np.array([0.3, -0.2, 0.5]), 1.25
    glscene = rotate_scene_of(scene, HALF_TURN)
    inner = rotate_scene_of(glscene, turn.inv().as_matrix())  # what stands in the file, under the node
    inner["means"] = torch.from_numpy((glscene["means"].numpy() - shift) @ turn.as_matrix() / size).float()
    inner["scales"] = glscene["scales"] - np.log(size)
    document = pygltflib.GLTF2(
        scene=0, scenes=[pygltflib.Scene(nodes=[0])], extensionsUsed=[gltf.EXTENSION],
        nodes=[pygltflib.Node(children=[1], translation=shift.tolist()),
               pygltflib.Node(mesh=0, rotation=turn.as_quat().tolist(), scale=[size] * 3)],
        meshes=[pygltflib.Mesh(primitives=[])],
    )  # fmt: skip
    data = b""
    for rows in (slice(0, 25), slice(25, None)):
        quats = torch.nn.functional.normalize(inner["quats"][rows], dim=1)[:, [1, 2, 3, 0]]
        columns = {
            "POSITION": inner["means"][rows].numpy(),
            f"{gltf.EXTENSION}:ROTATION": np.rint(quats.numpy() * 32767).astype("<i2"),
            f"{gltf.EXTENSION}:SCALE": inner["scales"][rows].exp().numpy(),
            f"{gltf.EXTENSION}:OPACITY": inner["opacities"][rows].sigmoid()[:, None].numpy(),
            f"{gltf.EXTENSION}:SH_DEGREE_0_COEF_0": inner["sh0"][rows, 0].numpy(),
            **{f"{gltf.EXTENSION}:SH_DEGREE_1_COEF_{i}": inner["shN"][rows, i].numpy() for i in range(3)},
        }
        attributes = pygltflib.Attributes()
        for name, values in columns.items():
            setattr(attributes, name, len(document.accessors))
            document.accessors.append(pygltflib.Accessor(
                bufferView=len(document.bufferViews), count=len(values), type=gltf.KINDS[values.shape[1]],
                componentType=gltf.SHORT if values.dtype == np.int16 else gltf.FLOAT,
                normalized=values.dtype == np.int16,
            ))  # fmt: skip
            raw = np.ascontiguousarray(values).tobytes()
            document.bufferViews.append(pygltflib.BufferView(buffer=0, byteOffset=len(data), byteLength=len(raw)))
            data += raw + bytes(-len(raw) % 4)
        extension = {gltf.EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}}
        document.meshes[0].primitives.append(
            pygltflib.Primitive(mode=pygltflib.POINTS, attributes=attributes, extensions=extension)
        )
    document.buffers = [pygltflib.Buffer(byteLength=len(data))]
    document.set_binary_blob(data)
    document.save_binary(str(tmp_path / "theirs.glb"))
    seen = worst_psnr(pictures(scene), pictures(registry.read(tmp_path / "theirs.glb").tensors))
    assert seen > LOSSLESS, f"nodes, harmonics or short quaternions are misread: {seen:.1f} dB"


def test_a_scene_begins_from_any_format(tmp_path: Path) -> None:
    scene = lopsided(2)
    for name, options, *_ in TRIPS.values():
        registry.write(tmp_path / name, scene, **options)
        model = Gaussians.load(tmp_path / name).at_least(3)
        assert len(model) == len(scene["means"]) and model.sh_degree == 3, f"training cannot begin from {name}"
        assert worst_psnr(pictures(scene, model_degree(name)), pictures(model.tensors())) > LOSSY, (
            "room changes colours"
        )


def model_degree(name: str) -> int:
    return min(2, registry.format_of(Path(name)).sh_degree)
