"""Fixtures: the page's section that a test backs, a directory to stand in, and the command line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.page import Section, sections
from faults.terminal import Terminal


@pytest.fixture
def section(request: pytest.FixtureRequest) -> Section:
    """The section that has the test's name."""
    name = request.node.originalname
    (found,) = [section for section in sections() if section.test == name] or [None]
    if found is None:
        pytest.fail(f"no section of the page is backed by {name}")
    return found


@pytest.fixture(autouse=True)
def empty_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of pictures are written, but nothing is drawn, which would take most of the time; others test that."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **options: file.write(b"a picture"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to stand in, so that `runs/long` means the same as on the page."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where the system has one: for tests that write again and again."""
    shared = Path("/dev/shm")
    if not (shared.is_dir() and os.access(shared, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as directory:
        yield Path(directory)


@pytest.fixture
def terminal(here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """The command line, in this process."""
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal(capfd)
