"""The documentation runs: its site builds without a warning and loads nothing; each block of code in it is executed."""

import ast
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import tiny_scene
import torch
import yaml
from browser import CHROMIUM, Browser
from PIL import Image

from splatlearn import config as configs
from splatlearn.cli import COMMANDS, main
from splatlearn.run import task_class

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

import hooks  # noqa: E402  (the site's hook, which finds the parsers of the commands)

LANGUAGES = {"python", "bash", "yaml", "json", "text"}
# what a page may tell to type besides splatlearn's own commands
SHELL = {"echo", "pip", "python", "cd", "tensorboard", "mkdocs", "pytest", "torchrun", "git", "ruff"}
# words added to a command so that a test can afford it; None: its words are parsed and it is not run
CHEAPER: dict[str, list[str] | None] = {
    "train": [],
    "eval": [],
    "render": ["--frames", "3"],
    "export": [],
    "convert": [],
    "compare": [],
    "doctor": [],
    "sample": ["--tokens", "4"],
}
SMALL_TEXT = (
    "--steps 2 --model.layers 1 --model.width 16 --model.heads 2 --batch 4 --evaluate_tokens 300 --sample_length 4"
)
SMALL_PAIRS = "--pairs.numbers 200 --pairs.dates 200 --model.encoder_layers 1"
# pages of measurements and of mathematics whose indented blocks are samples of what has been run
SAMPLES = {"LOG.md"}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    language, start, lines = None, 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = re.fullmatch(r"\s*```(\S*)(?: .*)?", line)
        if fence and language is None:
            language, start, lines = fence[1], number, []
        elif fence:
            yield Block(page, start, language, "\n".join(lines) + "\n")
            language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"{page.name}: the block of line {start} does not end"


PAGES = sorted(page for page in DOCS.glob("*.md") if page.name not in SAMPLES)
BLOCKS = [block for page in PAGES for block in blocks(page)]


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a shell block; a backslash continues a line, && and | separate commands."""
    found: list[list[str]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="|&")
        words.whitespace_split = True
        found.append([])
        for word in words:
            if word in ("|", "&&"):
                found.append([])
            else:
                found[-1].append(word)
    return [words for words in found if words]


SHELL_LINES = [(block, words) for block in BLOCKS if block.language == "bash" for words in commands(block)]
OUR_LINES = [(block, words[1:]) for block, words in SHELL_LINES if words[0] == "splatlearn"]


def named(value: object) -> str | None:
    if isinstance(value, Block):
        return f"{value.page.stem}:{value.line}"
    return "-".join(value)[:40] if isinstance(value, list) else None


# ---- the site ----


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "built"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def test_the_site_builds_and_asks_no_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= len(PAGES), "pages are missing"
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(https?:[^"' >]*)""", text)
        fetched += [tag for tag in re.findall(r"<link [^>]*>", text) if "http" in tag and "canonical" not in tag]
        assert not fetched, f"{page.name} loads {fetched}"
        assert "<!-- commands" not in text and "<!-- settings" not in text, (
            f"{page.name}: what it should be told is missing"
        )
    reference = (site / "commands.html").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"splatlearn {name}" in reference, f"the reference does not tell of {name}"
    assert "--timelapse" in reference and "densify.gradient" in reference, "options or keys are missing"
    api = (site / "api.html").read_text(encoding="utf-8")
    for word in ("rasterization", "viewmats", "Task", "photometric_loss"):
        assert word in api, f"the reference of Python does not tell of {word}"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")
def test_the_site_in_a_browser(site: Path) -> None:
    with Browser() as browser:
        for name, width, dark in (("index", 1280, False), ("research", 390, True), ("maths", 1280, True)):
            browser.open(site / f"{name}.html", width=width, dark=dark)
            assert browser.ask("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than its window"
            asked = [text for text in browser.complaints() if text.startswith("http")]
            assert not asked, f"{name} asks a network for {asked}"


# ---- sentences ----


def told_by_the_program() -> str:
    """All texts of the program, each on a line, with an ellipsis where it fills something in."""
    texts = []
    for path in [
        ROOT / "setup.py",
        *sorted((ROOT / "build_native").glob("*.py")),
        *sorted((ROOT / "splatlearn").rglob("*.py")),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(text.replace("\n", " ") for text in texts)


def test_sentences_of_troubleshooting_are_still_said() -> None:
    program = told_by_the_program()
    rows, wanted = [], False
    for line in (DOCS / "troubleshooting.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        wanted = cells[0] == "message" or (wanted and line.startswith("|"))
        if wanted and cells[0] not in ("message",) and not line.startswith("|---"):
            rows.append(cells[0])
    assert len(rows) > 25, "the tables were not found"
    for row in rows:
        pieces = [piece.strip(" :;,") for sentence in row.split(" / ") for piece in sentence.split("…")]
        long = [piece for piece in pieces if len(piece) > 7]
        assert long, f"nothing of {row!r} can be looked for"
        for piece in long:
            assert piece in program, f"the program no longer says {piece!r}"


def test_files_that_pages_name_are_there() -> None:
    named_files = [
        (page.name, path)
        for page in PAGES
        for path in re.findall(
            r"`((?:csrc|splatlearn|configs|scripts|examples|tests)/[\w./-]+)`", page.read_text("utf-8")
        )
    ]
    assert len(named_files) > 10, "no names were found"
    gone = [(page, path) for page, path in named_files if "NAME" not in path and not (ROOT / path).exists()]
    assert not gone, f"pages name files that are not there: {gone}"


def test_the_architecture_names_what_is_there() -> None:
    """Rows `file` | `names` | text: every file exists, and every name stands in one of the row's files."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for path in re.findall(r"`((?:csrc|splatlearn|configs|scripts|examples|tests|docs)/[\w./-]+)`", text):
        assert "NAME" in path or (ROOT / path).exists(), f"ARCHITECTURE.md names {path}, which is not there"
    rows = re.findall(r"^\| ((?:`[\w./]+`(?:, )?)+) \| ([^|]*) \|", text, re.MULTILINE)
    assert len(rows) > 20, "the tables were not found"
    for files, names in rows:
        sources = [(ROOT / path).read_text("utf-8") for path in re.findall(r"`([^`]+)`", files)]
        for name in re.findall(r"`([^`]+)`", names):
            found = any(re.search(rf"\b{re.escape(name)}\b", source) for source in sources)
            assert found, f"ARCHITECTURE.md says that {name} is in {files}, but it is not"


# ---- every block ----


def test_blocks_are_of_a_kind_that_is_checked() -> None:
    assert len(BLOCKS) > 40 and len(OUR_LINES) > 25, "the blocks were not found"
    for block in BLOCKS:
        assert block.language in LANGUAGES, (
            f"{block.page.name}:{block.line}: a block of {block.language!r} is not checked"
        )
    for page in PAGES:
        inside = {n for block in blocks(page) for n in range(block.line, block.line + block.text.count("\n") + 1)}
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            code = re.match(r" {4}(from|import|def|>>>|\$|splatlearn) ", line) and number not in inside
            assert page.name == "LINE.md" or not code, f"{page.name}:{number}: code outside of a fenced block: {line}"


@pytest.fixture
def calm() -> Iterator[None]:
    """What a page changes of torch is put back."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the pages speak of: a scene, two trained runs of it, the configs."""
    root = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "configs", root / "configs")
    shutil.copytree(ROOT / "examples", root / "examples")
    tiny_scene.write(root / "my_scene")
    shutil.copytree(root / "my_scene" / "images", root / "my_photos")
    shutil.copytree(root / "my_scene", root / "reconstructed")  # as `splatlearn reconstruct` leaves it, with a mask
    (root / "reconstructed" / "masks").mkdir()
    mask = np.full((tiny_scene.HEIGHT, tiny_scene.WIDTH), 255, np.uint8)
    mask[:9] = 0
    Image.fromarray(mask).save(root / "reconstructed" / "masks" / "view_1.png.png")
    common = ["configs/scene.yaml", "--data.path", "my_scene", "--sh_degree", "1", "--log_every", "5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, steps in (("mine", "30"), ("other", "10")):
            words = [*common, "--steps", steps, "--out", f"runs/{name}", "--timelapse", "6"]
            assert main(["train", *words]) == 0
        assert main(["train", "configs/line.yaml", "--out", "runs/line"]) == 0
        assert main(["export", "runs/mine", "--out", "scene.ply"]) == 0
        Path("tinyshakespeare.txt").write_text("ROMEO: But soft, what light through yonder window? 1597\n" * 60)
        for words in (
            "text_cpu.yaml --data.path tinyshakespeare.txt --out runs/shakespeare",
            f"text_pairs.yaml --out runs/pairs {SMALL_PAIRS}",
        ):
            assert main(["train", *f"configs/{words} {SMALL_TEXT}".split()]) == 0
    return root


@pytest.fixture
def copy(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, to work in."""
    folder = tmp_path / "here"
    shutil.copytree(place, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language == "python" for b in blocks(p))], ids=lambda p: p.stem
)
def test_python_of_a_page(page: Path, copy: Path, calm: None) -> None:
    """All Python blocks of a page, in order, in one program."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "python":
            lines += [""] * (block.line - len(lines)) + block.text.splitlines()
    execute("\n".join(lines) + "\n", str(page))  # so that errors name the page's lines


def execute(program: str, name: str) -> None:
    """Runs a program as a module of its own, whose classes and functions can be looked up."""
    module = ModuleType("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "page", module)
        exec(compile(program, name, "exec"), vars(module))


def test_python_of_the_line(copy: Path, calm: None) -> None:
    """LINE.md indents its code and names a task, a model, a loss and a batch of the reader's."""
    text = (DOCS / "LINE.md").read_text(encoding="utf-8")
    codes = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, re.MULTILINE)
    codes = [code for code in codes if "import" in code]
    assert len(codes) == 2, "the code of LINE.md was not found"
    prelude = """
from splatlearn import LineTask
task = LineTask(LineTask.Config(device="cpu"))
model, batch = task.neuron, task.batch(1)
def loss(model, batch):
    return ((model(batch.x.to(model.weight.dtype)) - batch.y) ** 2).mean()
"""
    for code in codes:
        execute(prelude + "\n".join(line[4:] for line in code.splitlines()), "LINE.md")


@pytest.mark.parametrize(("block", "words"), [line for line in SHELL_LINES if line[1][0] != "splatlearn"], ids=named)
def test_other_commands(block: Block, words: list[str]) -> None:
    assert words[0] in SHELL, f"{block.page.name}:{block.line}: {words[0]!r} is not checked"
    if words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), f"{block.page.name}:{block.line}: there is no {words[1]}"
    if words[0] == "pip":
        text = (ROOT / "pyproject.toml").read_text()
        for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
            assert all(f"\n{name} = [" in text for name in extra.split(",")), f"pip knows no extra {extra}"


@pytest.mark.parametrize(("block", "words"), OUR_LINES, ids=named)
def test_commands_are_understood(block: Block, words: list[str], copy: Path) -> None:
    """Every line is read by the parser of its command, or as keys of its config."""
    where = f"{block.page.name}:{block.line}: splatlearn {' '.join(words)}"
    if words[0].startswith("-"):
        assert words[0] in ("--help", "--version"), where
        return
    assert words[0] in COMMANDS, where
    if words[0] == "train":
        understood_by_train(words[1:], where)
    elif "--help" not in words:
        parser = hooks.parser_of(words[0])
        assert parser is not None, where
        parser.parse_args(words[1:])  # raises a SplatlearnError that names the word


def understood_by_train(words: list[str], where: str) -> None:
    if not words or words[0] == "--help":
        return
    if words[0] == "--resume":
        path, rest = Path("configs/scene.yaml"), words[2:]
    elif Path(words[0]).suffix == ".yaml":
        assert Path(words[0]).is_file(), f"{where}: there is no such config"
        path, rest = Path(words[0]), words[1:]
    else:
        path, rest = Path("configs/scene.yaml"), words[1:]  # a folder of photographs
    rest = [word for word in rest if word not in ("--help", "--viewer")]
    configs.load(task_class(path).Config, path, rest)


def affordable(words: list[str]) -> list[str] | None:
    """The words of a command that a test runs; None where it does not: it serves a page, or photographs are found."""
    more = CHEAPER.get(words[0])
    if more is None or {"--help", "--viewer"} & set(words) or any("photos" in word for word in words):
        return None
    if words[0] == "train":
        more = small_training(words)
    if words[0] == "render":
        photos = {"test", "train", "--timelapse", "--frames", "--seconds"} & set(words)
        more = [] if photos else more
    return None if more is None else [*words, *more]


def small_training(words: list[str]) -> list[str] | None:
    """What makes a training short; None for one that begins with no config."""
    name = Path(words[1]).name
    if words[1] == "--resume":
        return ["--steps", "31"]
    if not name.endswith(".yaml"):
        return None
    if name.startswith("text"):
        return [*SMALL_TEXT.split(), *(SMALL_PAIRS.split() if "pairs" in name else [])]
    return [] if name == "line.yaml" else ["--steps", "4", *([] if "--sh_degree" in words else ["--sh_degree", "1"])]


RUN_LINES = [(block, words) for block, words in OUR_LINES if affordable(words) is not None]


@pytest.mark.parametrize(("block", "words"), RUN_LINES, ids=named)
def test_commands_run(
    block: Block, words: list[str], copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = affordable(words) or []
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ROMEO: But")))
    if words[0] == "train" and "--resume" not in words and "--out" in words:
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)  # it must be new
    assert main(words) == 0, f"{block.page.name}:{block.line}: {words}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in ("yaml", "json")], ids=named)
def test_data_is_what_it_says(block: Block, copy: Path) -> None:
    if block.language == "json":
        json.loads(block.text)
        return
    tree = yaml.safe_load(block.text)
    if isinstance(tree, dict) and "task" in tree:
        path = copy / "block.yaml"
        path.write_text(block.text, encoding="utf-8")
        configs.load(task_class(path).Config, path)
