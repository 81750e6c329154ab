"""The page "what happens when", section by section: what a test must find, word for word."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "what-happens-when.md"
HEADING = re.compile(r"^### (?P<title>.+)$", flags=re.MULTILINE)
SHOWN = re.compile(r"^```text\n(?P<text>.*?)^```$", flags=re.MULTILINE | re.DOTALL)
ENDS = re.compile(r"^#{1,3} ", flags=re.MULTILINE)


@attrs.frozen
class Section:
    """A fault: its heading, and the texts that a user sees of it."""

    title: str
    body: str

    @property
    def test(self) -> str:
        """The name of the test that backs it."""
        return "test_" + re.sub(r"\W+", "_", self.title.lower()).strip("_")

    @property
    def shown(self) -> list[str]:
        """What the user sees; `…` stands for anything, a line of it for any lines."""
        return [match["text"] for match in SHOWN.finditer(self.body)]

    def check(self, output: str, which: int = 0) -> None:
        """Compare what came with the section's text, character by character but for the wildcards."""
        wanted = self.shown[which]
        pattern = "".join(
            r"(?:.*\n)*?" if line == "…\n" else re.escape(line).replace("…", ".*")
            for line in wanted.splitlines(keepends=True)
        )
        text = output if output.endswith("\n") else output + "\n"
        if not re.fullmatch(pattern, text):
            raise AssertionError(f"the page shows under {self.title!r}\n{wanted}\nbut what came is\n{text}")

    def check_nothing_is_shown(self) -> None:
        """The section says that the user sees nothing."""
        assert not self.shown, f"the page shows a text under {self.title!r}, but nothing is to be seen"


def sections() -> list[Section]:
    """All sections of the page."""
    text = PAGE.read_text(encoding="utf-8")
    found = []
    for heading in HEADING.finditer(text):
        rest = text[heading.end() :]
        ends = ENDS.search(rest)
        found.append(Section(heading["title"], rest[: ends.start()] if ends else rest))
    return found
