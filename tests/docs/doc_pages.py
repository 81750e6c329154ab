"""Runs a page of the documentation: its fenced blocks in order, in one namespace, in one empty directory.

The languages, and what is done with them:

- `python`: executed. A block whose first line is a comment with a file name, `# module.py`, is written to that file
  and imported instead, as a reader would save it.
- `diff`: what to change in a file that the page wrote; its first line names it, `# module.py`. Lines that begin with
  `-` or a space must occur there, once; those with `+` or a space take their place. The module is then imported anew.
- `console`: every line that begins with `$ ` is run; see `COMMANDS`. Lines under it are its output and must match.
  A comment `# exit status 2` after a command says that it fails, and how.
- `output`: what the Python block before it printed; must match.
- `toml`: a pyproject (it has `[project…]`), whose entry points must name modules of the page, or an experiment, which
  must name components and options that exist. `# file.toml` in its first line writes it to that file.
- `text`: formulas and sketches; nothing to run.

In an output a line `…` stands for any lines, and `…` within a line for anything. Blank lines and the amount of space do
not count. Any other language, or none, is an error.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

import bilevelrl as bl
import child_processes
from bilevelrl.plugins import discovery as plugins

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<language>[^\n`]*)$")
FILE_COMMENT = re.compile(r"# (?P<name>[\w.-]+\.(py|toml))$")
EXIT_STATUS = re.compile(r"\s+# exit status (?P<status>\d+)$")
PROGRESS = re.compile(r"iteration +[\d,]+  objective |run +[\d,]+ of [\d,]+$")
SHORT_ITERATIONS = "20"


@attrs.frozen
class Block:
    """A fenced block: its language, its text, and the line of the page where it begins."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that its first line names, if it does."""
        named = FILE_COMMENT.match(self.text.split("\n", 1)[0])
        return named["name"] if named else None


def blocks(markdown: str) -> list[Block]:
    """All fenced blocks of a page; raises `ValueError` for a fence that is never closed."""
    found: list[Block] = []
    opened: re.Match[str] | None = None
    began, body = 0, [""]
    for number, line in enumerate(markdown.split("\n"), start=1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened, began, body = fence, number, []
        elif fence and fence["ticks"].startswith(opened["ticks"]) and not fence["language"].strip():
            found.append(Block(opened["language"].strip(), "\n".join(body), began))
            opened = None
        else:
            body.append(line.removeprefix(opened["indent"]))
    if opened is not None:
        raise ValueError(f"the fence opened in line {began} is never closed")
    return found


def check_output(expected: str, actual: str) -> None:
    """Compare an output with what a page shows of it."""
    wanted, got = ([" ".join(line.split()) for line in text.split("\n") if line.strip()] for text in (expected, actual))
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…" else ".*?".join(map(re.escape, line.split("…"))) + r"\n" for line in wanted
    )
    if not re.fullmatch(pattern, "".join(line + "\n" for line in got)):
        raise AssertionError("the page shows\n  " + "\n  ".join(wanted) + "\nbut the output is\n  " + "\n  ".join(got))


@contextlib.contextmanager
def page(directory: Path) -> Iterator[Page]:
    """A page's own world: working directory, import path, modules and registry, all undone afterwards."""
    before, modules = Path.cwd(), set(sys.modules)
    plugins.registry.cache_clear()
    os.chdir(directory)
    sys.path.insert(0, str(directory))
    world = Page(directory)
    try:
        yield world
    finally:
        world.close()
        sys.path.remove(str(directory))
        os.chdir(before)
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(directory)):
                del sys.modules[name]
        importlib.invalidate_caches()
        plugins.registry.cache_clear()


class Page:
    """Runs blocks in one namespace and directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.printed: str | None = None
        self._background: list[subprocess.Popen[str]] = []

    def close(self) -> None:
        """End what the page started and left running, the last first."""
        for process in reversed(self._background):
            child_processes.end(process)

    def run(self, block: Block) -> None:
        """Run one block; raises where it fails or its language is unknown."""
        runners: dict[str, Callable[[Block], None]] = {
            "python": self._python,
            "diff": self._diff,
            "console": self._console,
            "output": self._output,
            "toml": self._toml,
            "text": self._text,
        }
        if block.language not in runners:
            raise ValueError(f"unknown language {block.language!r}; expected one of {', '.join(runners)}")
        if block.file and block.language != "diff":
            (self.directory / block.file).write_text(block.text + "\n", encoding="utf-8")
            importlib.invalidate_caches()
        runners[block.language](block)

    def _python(self, block: Block) -> None:
        if block.file:
            importlib.import_module(Path(block.file).stem)
            return
        # Empty lines in front, so that a traceback names the line of the page.
        code = compile("\n" * block.line + block.text, "page", "exec", dont_inherit=True)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, self.namespace)
        self.printed = printed.getvalue()

    def _diff(self, block: Block) -> None:
        file = self.directory / (block.file or "")
        if not file.is_file():
            raise ValueError("a diff begins with the name of a file that the page wrote: `# module.py`")
        hunk = block.text.split("\n")[1:]
        old, new = ("".join(f"{line[1:]}\n" for line in hunk if line[:1] in ("", " ", sign)) for sign in "-+")
        text = file.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{block.file} has these lines {text.count(old)} times, not once:\n{old}")
        file.write_text(text.replace(old, new), encoding="utf-8")
        # A module that changes twice within a second looks unchanged to the cache.
        Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
        sys.modules.pop(file.stem, None)
        importlib.invalidate_caches()
        importlib.import_module(file.stem)

    def _output(self, block: Block) -> None:
        if self.printed is None:
            raise ValueError("an output that follows no Python block")
        check_output(block.text, self.printed)
        self.printed = None

    def _text(self, block: Block) -> None:
        if re.search(r"^(\$|>>>) ", block.text, flags=re.MULTILINE):
            raise ValueError("a text block with a command in it; make it a console or python block")

    def _toml(self, block: Block) -> None:
        content = tomllib.loads(block.text)
        if "project" not in content:
            bl.compose(bl.storage.Experiment.parse(content), bl.plugins.registry())
            return
        for module in content["project"].get("entry-points", {}).get("bilevelrl", {}).values():
            importlib.import_module(module)

    def _console(self, block: Block) -> None:
        steps = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        if steps[0].strip() or len(steps) == 1:
            raise ValueError("a console block begins with a command: `$ bilevelrl …`")
        for step in steps[1:]:
            command, _, shown = step.partition("\n")
            self._command(command, shown)

    def _command(self, command: str, shown: str) -> None:
        fails = EXIT_STATUS.search(command)
        words = shlex.split(command, comments=True)
        environment = {}
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        if words[0] not in COMMANDS:
            raise ValueError(f"the command {words[0]!r} is none of {', '.join(COMMANDS)}")
        status, output = COMMANDS[words[0]](self, words, environment)
        expected = int(fails["status"]) if fails else 0
        if status != expected:
            raise AssertionError(f"`{command}` ended with exit status {status}, not {expected}:\n{output}")
        if shown.strip():
            check_output(shown, output)

    def bilevelrl(self, words: list[str], environment: dict[str, str]) -> tuple[int, str]:
        """Run the installed command; plugins that the page installed are found."""
        return self._subprocess([str(Path(sys.executable).with_name("bilevelrl")), *words[1:]], environment)

    def pytest(self, words: list[str], environment: dict[str, str]) -> tuple[int, str]:
        """Run tests that the page wrote: `$ pytest -q test_module.py`."""
        return self._subprocess([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words[1:]], environment)

    def python(self, words: list[str], environment: dict[str, str]) -> tuple[int, str]:
        """Run an example of the repository with few iterations: `$ python docs/examples/name.py`."""
        if len(words) != 2:
            raise ValueError(f"expected `python docs/examples/name.py`, not {shlex.join(words)!r}")
        return self._subprocess([sys.executable, str(ROOT / words[1]), SHORT_ITERATIONS], environment)

    def dask(self, words: list[str], environment: dict[str, str]) -> tuple[int, str]:
        """Start a scheduler or workers, which run until the page ends: `$ dask scheduler --scheduler-file name …`."""
        if words[1] not in ("scheduler", "worker") or "--scheduler-file" not in words:
            raise ValueError(f"expected a scheduler or a worker with a --scheduler-file, not {shlex.join(words)!r}")
        options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        options |= {"cwd": self.directory, "env": os.environ | environment}
        process = child_processes.start(sys.executable, "-m", "dask", *words[1:], lasting=True, **options)
        self._background.append(process)
        file = self.directory / words[words.index("--scheduler-file") + 1]
        child_processes.wait_until(file.exists, process)
        return 0, ""

    def make(self, words: list[str], environment: dict[str, str]) -> tuple[int, str]:
        """Check that the Makefile has the targets; running `make test` here would never end."""
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
        missing = set(words[1:]) - targets
        return (2, f"no target {missing}") if missing else (0, "")

    def pip(self, words: list[str], environment: dict[str, str]) -> tuple[int, str]:
        """`pip install --editable '.[extras]'`: the page's own pyproject where it wrote one, else this repository's."""
        if words[1:-1] != ["install", "--editable"] or not re.fullmatch(r"\.(\[[\w,]+\])?", words[-1]):
            raise ValueError(f"expected `pip install --editable .`, not {shlex.join(words)!r}")
        own = self.directory / "pyproject.toml"
        project = tomllib.loads((own if own.exists() else ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
            "project"
        ]
        extras = set(words[-1][2:-1].split(",")) if "[" in words[-1] else set()
        missing = extras - set(project.get("optional-dependencies", {}))
        if own.exists():
            self._install(project)
        return (1, f"no extra {missing}") if missing else (0, "")

    def _install(self, project: dict[str, Any]) -> None:
        """What an editable install leaves: metadata beside modules that are on the path."""
        metadata = self.directory / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        entries = project["entry-points"]["bilevelrl"]
        lines = [f"{name} = {module}" for name, module in entries.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[bilevelrl]", *lines, ""]))

    def _subprocess(self, arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
        settings = {"COLUMNS": "120", "PYTHONPATH": str(self.directory), "PYTHONIOENCODING": "utf-8", **environment}
        inherited = {name: value for name, value in os.environ.items() if name != plugins.LIMIT_VARIABLE}
        done = child_processes.run(*arguments, cwd=self.directory, env=inherited | settings)
        # What a reader at a terminal sees: warnings first, and a bar in place of the progress lines.
        told = "".join(line for line in done.stderr.splitlines(keepends=True) if not PROGRESS.match(line))
        return done.returncode, told + done.stdout


COMMANDS: dict[str, Callable[[Page, list[str], dict[str, str]], tuple[int, str]]] = {
    "bilevelrl": Page.bilevelrl,
    "dask": Page.dask,
    "make": Page.make,
    "pip": Page.pip,
    "pytest": Page.pytest,
    "python": Page.python,
}
