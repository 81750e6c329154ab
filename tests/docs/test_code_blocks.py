"""Every code block of the documentation runs, every link leads somewhere, and every public name is in the reference."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import ModuleType

import pytest
from doc_pages import PAGES, ROOT, Block, blocks, check_output, page

import bilevelrl as bl
from slowness import slow_unless

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (?P<title>.+)$", flags=re.MULTILINE)

# Pages and examples that take long; `make test-all` runs them. Others of each kind stay in `make test`.
SLOW = {
    *("growth.py", "compare_everything.py", "four_rooms_incentives.py", "rivals.py"),
    *("choosing-an-estimator.md", "comparison.md", "rivals.md", "four-rooms.md", "exploitation-and-exploration.md"),
    *("kl-rlhf.md", "inverse-rl.md", "use-many-cores-and-machines.md", "check-your-components.md"),
    *("learn-a-reward-from-preferences.md", "run-experiments.md", "resume-runs.md", "compare-algorithms.md"),
    *("command-line.md", "watch-runs.md", "write-a-plugin.md", "prove-an-estimator-right.md"),
    *("contract-design.md", "m-sobirl-on-frozenlake.md", "variance_per_sample.py"),
}


def titled(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_quick(path: Path) -> bool:
    return path.name not in SLOW


every_page = pytest.mark.parametrize("path", PAGES, ids=titled)


def without_blocks(markdown: str) -> str:
    for block in blocks(markdown):
        markdown = markdown.replace(block.text, "")
    return markdown


def anchors(path: Path) -> set[str]:
    """The anchors that headings get: lower case, punctuation dropped, spaces to hyphens."""
    titles = HEADING.findall(without_blocks(path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", slow_unless(is_quick, PAGES), ids=titled)
def test_code_blocks_run(path: Path, tmp_path: Path) -> None:
    with page(tmp_path) as world:
        for block in blocks(path.read_text(encoding="utf-8")):
            try:
                world.run(block)
            except Exception as error:
                error.add_note(f"in the {block.language} block at {path.relative_to(ROOT)}:{block.line}")
                raise


@every_page
def test_links_lead_to_files_and_headings(path: Path) -> None:
    broken = []
    for target in LINK.findall(without_blocks(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("path", slow_unless(is_quick, EXAMPLES), ids=lambda path: path.name)
def test_examples_run_in_a_short_form(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = runpy.run_path(str(path))["main"](iterations=20)
    assert capsys.readouterr().out
    assert answer


@pytest.mark.slow
def test_the_frozenlake_page_tells_what_its_example_measures() -> None:
    main = runpy.run_path(str(ROOT / "docs" / "examples" / "baseline_on_frozenlake.py"))["main"]
    ends = main(iterations=300)
    # The page's conclusions, at a tenth of its iterations: the baseline decides, a smaller step does not.
    assert ends["m-sobirl, baseline, β = 0.1"] > 0.39
    assert all(value < 0.05 for label, value in ends.items() if "plain" in label)
    assert ends["L-BFGS-B"] > 0.41
    assert ends["hard optimum"] == pytest.approx(0.4146, abs=5e-5)


def test_every_slow_page_is_there() -> None:
    assert {path.name for path in [*PAGES, *EXAMPLES]} >= SLOW


REFERENCE = re.split(r"^## ", (ROOT / "docs" / "reference" / "public-names.md").read_text(encoding="utf-8"), flags=re.M)
DESCRIBED = {
    title: set(re.findall(r"^\| `(\w+)", body, re.M)) for title, body in (s.split("\n", 1) for s in REFERENCE[1:])
}
NAMESPACES = sorted(name for name in bl.__all__ if isinstance(getattr(bl, name), ModuleType))


def test_every_public_name_is_in_the_reference() -> None:
    assert DESCRIBED["bl"] == set(bl.__all__)
    assert set(DESCRIBED) == {"bl", *(f"bl.{name}" for name in NAMESPACES)}


@pytest.mark.parametrize("name", NAMESPACES)
def test_the_reference_of_a_package_lists_its_public_names(name: str) -> None:
    module = getattr(bl, name)
    assert all(hasattr(module, listed) for listed in DESCRIBED[f"bl.{name}"])
    # A package lists its public names in a stub; a module does not.
    assert not hasattr(module, "__path__") or DESCRIBED[f"bl.{name}"] == set(module.__all__)


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in LINK.findall(index.read_text(encoding="utf-8"))}
    assert [page for page in PAGES if "docs" in page.parts and page not in {index, *linked}] == []


def test_readme_opens_with_the_two_commands() -> None:
    first = blocks((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    assert [line.split()[:3] for line in first.text.split("\n")] == [["$", "make", "demo"], ["$", "make", "test"]]


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (Block("ruby", "puts 1", 1), "unknown language 'ruby'"),
        (Block("", "make demo", 1), "unknown language ''"),
        (Block("text", "$ make demo", 1), "a text block with a command in it"),
        (Block("console", "$ rm -r runs", 1), "the command 'rm'"),
        (Block("console", "bilevelrl list", 1), "begins with a command"),
        (Block("console", "$ make no-such-target", 1), "no target"),
        (Block("console", "$ bilevelrl list nothing", 1), "exit status 2, not 0"),
        (Block("toml", "itterations = 3", 1), "itterations"),
        (Block("toml", '[problem]\nname = "frozenlake-shapping"', 1), "frozenlake-shapping"),
        (Block("python", "assert 1 == 2, 'arithmetic'", 1), "arithmetic"),
        (Block("output", "1", 1), "follows no Python block"),
    ],
    ids=lambda value: None if isinstance(value, Block) else value,
)
def test_a_block_that_cannot_be_run_is_an_error(block: Block, complaint: str, tmp_path: Path) -> None:
    with page(tmp_path) as world, pytest.raises((ValueError, AssertionError), match=re.escape(complaint)):
        world.run(block)


def test_an_unclosed_fence_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 2 is never closed"):
        blocks("# Title\n```python\nx = 1\n")


def test_an_output_must_match_except_where_it_says_so() -> None:
    check_output("a  1\n…\ntime … s", "\na 1\nb\nc\ntime 0.1 s\n")
    with pytest.raises(AssertionError, match="but the output is"):
        check_output("a 2", "a 1")
    with pytest.raises(AssertionError, match="but the output is"):
        check_output("a 1", "a 1\nb 2")
