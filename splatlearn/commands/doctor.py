"""splatlearn doctor: what is here, what works, and how to mend what does not."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError

PACKAGES = ("torch", "numpy", "scipy", "pycolmap", "imageio", "imageio-ffmpeg", "pillow", "matplotlib", "safetensors",
            "pyyaml", "tqdm")  # fmt: skip
EXTRAS = {"torchmetrics": "LPIPS, with: pip install 'splatlearn[lpips]'"}


def run(words: list[str]) -> int:
    Parser("doctor", __doc__).parse_args(words)
    ill = 0
    for name, found, advice in findings():
        print(f"{'ok ' if not advice else '!! '} {name:<16} {found}" + (f"\n    mend: {advice}" if advice else ""))
        ill += bool(advice)
    print("all is well" if not ill else f"{ill} thing{'s' if ill > 1 else ''} to mend")
    return 1 if ill else 0


def findings() -> Iterator[tuple[str, str, str]]:
    """What was looked at, what was found, and how to mend it ("" where all is well)."""
    import torch

    import splatlearn
    from splatlearn.ops import native

    yield "splatlearn", f"{splatlearn.__version__} in {os.path.dirname(splatlearn.__file__)}", ""
    yield (
        "python",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        ("" if sys.version_info >= (3, 10) else "install Python 3.10 or later"),
    )
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package), ""
        except importlib.metadata.PackageNotFoundError:
            yield package, "not installed", f"pip install {package}"
    for package, use in EXTRAS.items():
        try:
            yield package, importlib.metadata.version(package), ""
        except importlib.metadata.PackageNotFoundError:
            yield package, f"not installed (optional, for {use})", ""
    yield _native_library()
    yield _cuda_library()
    yield _rendering("cpu", "rasterizer")
    if torch.cuda.is_available() and native.CUDA_LIBRARY.exists():
        yield _rendering("cuda", "rasterizer, GPU")
    yield _compiler("g++", "C++ compiler", "apt install g++ (needed only to install from source)")
    yield "nvcc", _where("nvcc"), ""
    yield _gpu()
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    omp = os.environ.get("OMP_NUM_THREADS")
    yield "threads", threads + (f" (OMP_NUM_THREADS={omp})" if omp else ""), ""


def _native_library() -> tuple[str, str, str]:
    from splatlearn.ops import native

    try:
        return "native CPU", f"{native.CPU_LIBRARY.name}, instruction set {native.isa_level()}", ""
    except SplatlearnError as error:
        problem, _, advice = str(error).partition("; ")
        return "native CPU", problem, advice or "reinstall with `pip install .`"


def _cuda_library() -> tuple[str, str, str]:
    from splatlearn.ops import native

    if not native.CUDA_LIBRARY.exists():
        return "native CUDA", "not built, for there was no nvcc on installation (optional, for NVIDIA cards)", ""
    try:
        native.library("cuda")
    except SplatlearnError as error:
        problem, _, advice = str(error).partition("; ")
        return "native CUDA", problem, advice
    return "native CUDA", native.CUDA_LIBRARY.name, ""


def _rendering(device: str, name: str) -> tuple[str, str, str]:
    """One Gaussian, forward and backward: the shortest proof that the parts fit together."""
    import torch

    import splatlearn

    gaussian = {
        "means": torch.tensor([[0.0, 0.0, 2.0]]),
        "quats": torch.tensor([[1.0, 0, 0, 0]]),
        "scales": torch.full((1, 3), 0.2),
        "opacities": torch.tensor([0.8]),
        "colors": torch.ones(1, 3),
        "viewmats": torch.eye(4)[None],
        "Ks": torch.tensor([[[16.0, 0, 8], [0, 16, 8], [0, 0, 1]]]),
    }
    given: dict[str, Any] = {key: value.to(device) for key, value in gaussian.items()}
    means = given["means"].requires_grad_()
    try:
        image, _, _ = splatlearn.rasterization(**given, width=16, height=16)
        image[0, :8].sum().backward()
    except SplatlearnError as error:
        return name, str(error), "reinstall with `pip install .`"
    works = image.max() > 0.5 and means.grad is not None and means.grad.abs().sum() > 0
    if not works:
        return name, "draws nothing", "reinstall with `pip install .`"
    return name, "draws and differentiates", ""


def _where(program: str) -> str:
    return shutil.which(program) or "not found (optional, to install the CUDA kernels from source)"


def _compiler(program: str, name: str, advice: str) -> tuple[str, str, str]:
    path = os.environ.get("CXX") or shutil.which(program) or shutil.which("clang++")
    return name, path or f"not found; to mend: {advice}", ""


def _gpu() -> tuple[str, str, str]:
    import torch

    if not torch.cuda.is_available():
        return "GPU", "none that PyTorch sees; scenes are trained on the CPU", ""
    from splatlearn.ops import native

    if not native.CUDA_LIBRARY.exists():
        mend = "install the CUDA toolkit and reinstall with `SPLATLEARN_CUDA=1 pip install .`"
        return "GPU", f"{torch.cuda.get_device_name()}, which needs {native.CUDA_LIBRARY.name}", mend
    return "GPU", torch.cuda.get_device_name(), ""
