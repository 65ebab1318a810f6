"""The commands that README.md, README.zh-CN.md and docs/*.md tell a reader to type."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SHELL = {"", "bash", "sh", "shell", "console"}  # what a block is marked with that holds commands
FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+)(?P<kind>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)(?P=fence) *$", re.M | re.S
)
INLINE = re.compile(r"(?<!`)`(seqsweep [^`]+)`(?!`)")
SEPARATORS = {"|", "||", "&&", ";", "&", ">", "<"}


@dataclass(frozen=True)
class Told:
    page: str
    words: tuple[str, ...]  # without the program's name

    def __str__(self) -> str:
        return f"{self.page}: seqsweep {' '.join(self.words)}"


def commands_in_blocks() -> Iterator[Told]:
    """Of `seqsweep ...` lines of shell blocks, and of those that Ray's launcher hands to submit.py."""
    for page in PAGES:
        for line in shell_lines(page.read_text(encoding="utf-8")):
            for words in parts(line):
                if words[:1] == ["seqsweep"]:  # [what may be left out] stands in brackets
                    yield Told(page.name, tuple(word.strip("[]") for word in words[1:]))
                elif words[:2] == ["ray", "submit"]:
                    yield Told(page.name, ("on-head", *words[words.index("submit.py") + 1 :]))


def commands_in_text() -> Iterator[Told]:
    """Of `seqsweep ...` between backquotes, where optional parts stand in brackets."""
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for told in INLINE.findall(text):
            yield Told(page.name, tuple(told.replace("[", "").replace("]", "").split()[1:]))


def shell_lines(text: str) -> Iterator[str]:
    for block in FENCE.finditer(text):
        if block["kind"] in SHELL:
            yield from block["text"].replace("\\\n", " ").splitlines()


def parts(line: str) -> Iterator[list[str]]:
    """The commands of a line, without comments."""
    words: list[str] = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    for word in lexer:
        if word in SEPARATORS:
            yield words
            words = []
        else:
            words.append(word)
    yield words
