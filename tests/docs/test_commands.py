"""Every command in README.md and docs/ exists and takes what the page gives it. Nothing is run."""

from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from seqsweep.sweep.cli.app import app
from seqsweep.sweep.cli.jobs import flags_of
from tests.docs.shell import Told, commands_in_blocks, commands_in_text, parts, shell_lines

FOUND = typer.main.get_command(app)
assert isinstance(FOUND, TyperGroup)
GROUP = FOUND
UsageError = typer.BadParameter.__bases__[0]  # Typer brings a Click of its own, or takes the one there is
IN_BLOCKS = list(commands_in_blocks())
IN_TEXT = list(commands_in_text())


def parse(words: list[str]) -> None:
    """As the command line would, up to running it: names, flags, numbers, what is required."""
    with GROUP.make_context("seqsweep", list(words)) as group_context:
        name, command, rest = GROUP.resolve_command(group_context, list(words))
        assert command is not None
        if name == "on-head":
            return parse([rest[0], *(flags_of(rest[1:]) if rest[0] == "run" else rest[1:])])
        with command.make_context(name, rest, parent=group_context) as context:
            if name == "submit":  # what it does not know itself is `run`'s
                parse(["run", *context.args])


@pytest.mark.parametrize("told", IN_BLOCKS, ids=str)
def test_a_command_in_a_block_can_be_parsed(told: Told) -> None:
    parse(list(told.words))


@pytest.mark.parametrize("told", IN_TEXT, ids=str)
def test_a_command_in_the_text_has_these_flags(told: Told) -> None:
    command = GROUP.commands[told.words[0]]
    known = flags(command) | (flags(GROUP.commands["run"]) if told.words[0] == "submit" else set())
    given = {word.partition("=")[0] for word in told.words[1:] if word.startswith("-")}
    assert given <= known | {"--help"}


def flags(command: Any) -> set[str]:
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}


def test_pages_tell_commands_at_all() -> None:
    pages = {told.page for told in IN_BLOCKS}
    assert {"README.md", "README.zh-CN.md", "search.md", "cluster.md"} <= pages


@pytest.mark.parametrize(
    "words",
    [
        ["runn"],
        ["run", "--trails", "3"],
        ["run", "--trials", "three"],
        ["show", "mine"],
        ["submit", "--trails", "3"],
        ["on-head", "run", "trails=3"],
    ],
)
def test_a_wrong_command_is_found(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)


def test_commands_are_taken_from_shell_blocks_alone() -> None:
    text = "```\nseqsweep a \\\n  --b  # why\n```\n```toml\nseqsweep = 1\n```\n"
    text += "1. x\n\n    ```sh\n    x | seqsweep c\n    ```\n"
    found = [words for line in shell_lines(text) for words in parts(line)]
    assert found == [["seqsweep", "a", "--b"], ["x"], ["seqsweep", "c"]]
