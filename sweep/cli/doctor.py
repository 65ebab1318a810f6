"""`seqsweep doctor`: what a study would meet on this machine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seqsweep.sweep.cli.console import say
from seqsweep.sweep.cli.flags import Runs


def doctor(
    runs: Runs = Path("runs"),
    cache: Annotated[Path, typer.Option(help="Where prepared logs are kept.")] = Path(".cache/prepared"),
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """What a study would meet on this machine: versions, devices, memory, disks, Ray."""
    from seqsweep.sweep.cluster.doctor import Finding, examine

    findings: list[Finding] = []
    for finding in examine(runs, cache):
        findings.append(finding)
        if not as_json:
            say(f"{finding.level:<8} {finding.what}")
            if finding.advice:
                say(f"{'':<8} -> {finding.advice}")
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    raise typer.Exit(1 if any(finding.level == "problem" for finding in findings) else 0)


COMMANDS = (doctor,)
