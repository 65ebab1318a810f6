"""Three kills in `make test`, the campaign in `make faults`."""

from pathlib import Path

import pytest

from tests.faults.campaign import run_campaign

SMALL = ("--max-epochs", "5", "--fix", "hidden_dim=16", "--fix", "max_len=20", "--fix", "residual=plain")
FINALISTS = ("--finalists", "2", "--finalist-seeds", "2")


def test_three_kills(tmp_path: Path) -> None:
    tally = run_campaign(tmp_path, ("--trials", "8", *SMALL, *FINALISTS), num_kills=3, seed=1)
    assert tally.problems == [] and tally.driver_kills + tally.worker_kills == 3


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(6))
def test_a_study_of_thirty_trials(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    tally = run_campaign(tmp_path, ("--trials", "30", *SMALL, *FINALISTS), num_kills=10, seed=seed)
    with capsys.disabled():
        print(f"\nseed {seed}: {tally}")
    assert tally.problems == []
    assert tally.driver_kills + tally.worker_kills == 10
