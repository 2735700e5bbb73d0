"""README and guides do what they say: code runs, commands are valid, links and fields exist.

What the pages hold is tested where it stands, page by page, from top to bottom:

* ``python`` blocks run, one after the other, in one namespace; a block whose first line is a
  comment with a file's name is that file too, and so is a ``toml`` block;
* ``sh`` blocks: commands of ``imac-torch`` run in this process, of other programs what they name
  has to exist;
* a comment ``<!-- not run: why -->`` before a block leaves it at checking: the syntax of Python,
  the options of commands.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import imac_torch
from imac_torch.cli import app, commands
from imac_torch.config import Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCE = sorted((ROOT / "docs" / "api").glob("*.rst"))

FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n\n?)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# Programs of other people on the pages; their arguments are theirs.
OTHERS = {"git", "cd", ".", "apt-get", "brew", "kubectl", "squeue", "sbatch", "scancel", "dask"}

# s. A block takes seconds, but for workers that do not come up it would wait without an end.
PATIENCE = 600.0


@dataclass(frozen=True)
class Block:
    """A fenced block: where its text starts, what it is, and why it is not run (or nothing)."""

    line: int
    language: str
    text: str
    reason: str


def blocks(text: str) -> list[Block]:
    return [
        Block(
            text[: match.start("text")].count("\n") + 1,
            match["language"],
            match["text"],
            match["reason"] or "",
        )
        for match in FENCE.finditer(text)
    ]


def prose(path: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def shell_commands(text: str) -> list[list[str]]:
    """The commands of a block in words, comments and line continuations taken out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def page_id(path: Path) -> str:
    return path.stem


# What is wrong with a command, without running it


def command_problem(words: list[str]) -> str:
    """Why a command cannot be as written; empty if it can."""
    program, *rest = words
    if program == "imac-torch":
        return imac_torch_problem(rest)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in rest if "=" not in word and word not in targets]
        return f"no target {unknown}" if unknown else ""
    if program == "python":
        script = next((word for word in rest if word.endswith(".py")), None)
        missing = script is not None and not (ROOT / script).is_file()
        return f"no file {script}" if missing else ""
    if program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        known = project["project"]["optional-dependencies"]
        named = re.findall(r"\[([\w,]+)\]", " ".join(rest))
        unknown = [extra for text in named for extra in text.split(",") if extra not in known]
        return f"no extra {unknown}" if unknown else ""
    return "" if program in OTHERS else f"a test has to know what to make of {program!r}"


def imac_torch_problem(words: list[str]) -> str:
    commands.register(app)
    group = typer.main.get_command(app)
    context = group.context_class(group, info_name="imac-torch")
    if not words or words[0].startswith("-"):
        return "" if words in ([], ["--help"], ["--version"]) else f"no option {words}"
    command = group.get_command(context, words[0])
    if command is None:
        return f"no command {words[0]!r}"
    if "--help" in words:
        return ""
    try:
        command.make_context(words[0], words[1:], parent=context)
    except Exception as error:  # click's, which some versions of typer carry within themselves
        return str(error.format_message())  # type: ignore[attr-defined]
    return ""


def test_the_checks_see_what_they_look_for() -> None:
    text = (
        "a\n\n```python\nx = 1\n```\n"
        "<!-- not run: needs a moon -->\n```sh\nmake \\\n  demo # now\n```\n"
    )
    one, other = blocks(text)
    assert (one.line, one.language, one.text, one.reason) == (4, "python", "x = 1\n", "")
    assert other.reason == "needs a moon"
    assert shell_commands(other.text) == [["make", "demo"]]
    assert command_problem(["make", "demo"]) == ""
    assert "no target" in command_problem(["make", "tea"])
    assert "no file" in command_problem(["python", "examples/none.py"])
    assert command_problem(["pip", "install", ".[cluster]"]) == ""
    assert "no extra" in command_problem(["pip", "install", ".[moon]"])
    assert "has to know" in command_problem(["rm", "-rf", "/"])
    assert command_problem(["imac-torch", "sweep", "f.toml", "--dask", "local", "-j", "8"]) == ""
    assert "no command" in command_problem(["imac-torch", "fly"])
    assert "--wings" in command_problem(["imac-torch", "sweep", "f.toml", "--wings", "2"])
    assert "integer" in command_problem(["imac-torch", "sweep", "f.toml", "-j", "many"])
    assert slug("`verify`: what, and *when*") == "verify-what-and-when"


# Pages


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a reader starts: nothing there; what is made there is gone from Python afterwards."""
    directory = tmp_path / "reader"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    yield directory
    for name in [path.stem for path in (*EXAMPLES.glob("*.py"), *directory.glob("*.py"))]:
        sys.modules.pop(name, None)


def named_file(block: Block) -> str:
    """The name in a first line such as ``# mymodel.py``; empty if there is none."""
    suffix = {"python": "py", "toml": "toml"}.get(block.language)
    match = re.match(rf"# ([\w-]+\.{suffix})\b", block.text)
    return match[1] if match else ""


def needs_ngspice(words: list[str]) -> bool:
    return words[1] == "verify" or "ngspice" in words


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_a_page_works_from_top_to_bottom(
    page: Path, empty_directory: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.name == "imac_sim.md":  # a reader's own data
        import imac_sim_directory

        (empty_directory / "imac_sim_data").mkdir()
        imac_sim_directory.write_sample(empty_directory / "imac_sim_data")
    module = types.ModuleType(f"page_{page.stem}")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{page.name}, line {block.line}"
        if name := named_file(block):
            Path(name).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            if not block.reason:
                with ending(where, PATIENCE, slurm):
                    exec(code, vars(module))
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "sh":
            for words in shell_commands(block.text):
                assert not (problem := command_problem(words)), f"{where}: {words}: {problem}"
                if words[0] == "imac-torch" and not block.reason:
                    run_command(words, where)


@contextmanager
def ending(where: str, seconds: float, log: Path) -> Iterator[None]:
    """Fail if what is within takes longer, and show what batch jobs said meanwhile."""

    def give_up(*_: object) -> None:
        said = log.read_text(errors="replace")[-2000:] if log.exists() else "none was submitted"
        pytest.fail(f"{where}: no end after {seconds:g} s; batch jobs: {said}")

    before = signal.signal(signal.SIGALRM, give_up)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def test_a_block_that_waits_for_ever_fails_with_what_its_jobs_said(tmp_path: Path) -> None:
    log = tmp_path / "jobs.log"
    log.write_text("No module named distributed")
    expected = pytest.raises(pytest.fail.Exception, match=r"page, line 3: no end.*No module named")
    with expected, ending("page, line 3", 0.01, log):
        threading.Event().wait(60.0)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch system of one machine: what is submitted runs at once; the log of all jobs."""
    programs = tmp_path / "slurm"
    programs.mkdir()
    log = programs / "jobs.log"
    for name, text in {
        "sbatch": f'sh "$1" >> "{log}" 2>&1 &\necho "Submitted batch job $!"',
        "scancel": 'kill "$@" 2> /dev/null\nexit 0',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return log


def run_command(words: list[str], where: str) -> None:
    if needs_ngspice(words) and not ngspice_wanted():
        return
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, f"{where}: {' '.join(words)}: {result.output}"


def ngspice_wanted() -> bool:
    state = os.environ.get("IMAC_TORCH_SIMULATORS", "auto")
    return state != "disabled" and (state == "required" or shutil.which("ngspice") is not None)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_within_the_text_are_valid(page: Path) -> None:
    for code in re.findall(r"`(imac-torch [^`]+)`", prose(page)):
        words = shlex.split(code)
        if not any(word.isupper() or word == "..." for word in words):  # a pattern, no command
            assert not (problem := command_problem(words)), f"{page.name}: {code}: {problem}"


# Links and names


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST give a heading."""
    words = re.sub(r"[^\w\- ]", "", heading.lower())
    return words.strip().replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(found) for found in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=page_id
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", prose(page)):
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {link}: there are {anchors(path)}"


def test_files_named_to_contributors_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    to_come = {"imac_torch/periphery/converter/", "imac_torch/circuit/cell/"}
    for name in set(re.findall(r"`([\w./]+/[\w./]*)`", text)) - to_come:
        assert (ROOT / name).exists(), name
    assert not [name for name in to_come if (ROOT / name).exists()]  # they have come: say so


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    text = index.read_text(encoding="utf-8")
    for path in (*PAGES, *REFERENCE):
        if path != index:
            assert f"]({os.path.relpath(path, index.parent)})" in text, path


SECTIONS = "supplies|device|interconnect|crossbar|amplifier|neuron|timing|mapping"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_fields_of_the_configuration_exist(page: Path) -> None:
    config = Config()
    for section, field in re.findall(rf"`({SECTIONS})\.(\w+)`", page.read_text(encoding="utf-8")):
        fields = type(getattr(config, section)).model_fields
        assert field in fields, f"{page.name}: {section}.{field}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_names_of_the_package_exist(page: Path) -> None:
    for name in re.findall(r"`(imac(?:_torch)?(?:\.\w+)+)[`(]", prose(page)):
        _, *parts = name.split(".")
        found = imac_torch
        for index, part in enumerate(parts):
            if not hasattr(found, part):  # a module that nothing has imported so far
                importlib.import_module(".".join(["imac_torch", *parts[: index + 1]]))
            found = getattr(found, part)


def test_the_glossary_is_kept() -> None:
    """Every term has one entry, and words that it rules out are on no page and in no docstring."""
    glossary = ROOT / "docs" / "glossary.md"
    text = glossary.read_text(encoding="utf-8")
    terms = re.findall(r"^\*\*(.+?)\*\* –", text, re.MULTILINE)
    assert len(terms) > 50
    assert terms == sorted(set(terms), key=str.lower)
    table = text.partition("## Words that are not used")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")][1:]
    words = [word.strip() for row in rows for word in row.split(",")]
    ruled_out = re.compile(rf"\b({'|'.join(words)})s?\b", re.IGNORECASE)
    assert ruled_out.search("two Stages")
    texts = {page.name: prose(page) for page in PAGES if page != glossary}
    texts |= {name: getattr(imac_torch, name).__doc__ or "" for name in imac_torch.__all__}
    for where, said in texts.items():
        found = ruled_out.search(re.sub(r"`[^`]*`", "", said))
        assert found is None, f"{where}: {found and found[0]!r}: see the end of the glossary"


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert project["version"] == imac_torch.__version__
    assert f"\nversion: {imac_torch.__version__}\n" in citation
    number, _, developed = imac_torch.__version__.partition(".dev")
    newest = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest is not None
    assert newest[1].startswith(f"{number} (unreleased)" if developed else f"{number} (2")


def test_every_field_of_the_configuration_is_described() -> None:
    config = Config()
    for section in type(config).model_fields:
        for name, info in getattr(type(getattr(config, section)), "model_fields", {}).items():
            assert info.description, f"{section}.{name}"


def test_a_guide_covers_every_input_of_imac_sim() -> None:
    # The names in the documentation of IMAC-Sim's testIMAC.py.
    names = """data_dir spice_dir dataset_file label_file weight_var vdd vss testnum
        testnum_per_batch firstimage tsampling nodes xbar hpar vpar gain tech_node metal T H L W D
        eps rho rlow rhigh"""
    text = (ROOT / "docs" / "imac_sim.md").read_text(encoding="utf-8")
    table = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    missing = [name for name in names.split() if f"`{name}`" not in table]
    assert not missing
