from hypothesis import given
from hypothesis import strategies as st

from seqsweep.sweep.seeds import derive_seed

PATHS = st.lists(st.one_of(st.text(max_size=5), st.integers(0, 100)), max_size=3)


def test_the_value_is_fixed_for_ever() -> None:
    # sha256 of '[0,"trial",1]', its first 8 bytes, halved: a study can be repeated on any machine.
    assert derive_seed(0, "trial", 1) == 9097331104069625126


@given(st.integers(0, 2**63 - 1), PATHS)
def test_it_fits_a_signed_64_bit_integer(study_seed: int, path: list[str | int]) -> None:
    assert 0 <= derive_seed(study_seed, *path) < 2**63


@given(st.lists(st.tuples(st.integers(0, 3), PATHS), unique_by=repr, min_size=2, max_size=50))
def test_different_paths_give_different_seeds(paths: list[tuple[int, list[str | int]]]) -> None:
    assert len({derive_seed(study_seed, *path) for study_seed, path in paths}) == len(paths)


def test_a_number_is_not_its_text_and_joints_count() -> None:
    seeds = {derive_seed(0, "1"), derive_seed(0, 1), derive_seed(0, "ab", "c"), derive_seed(0, "a", "bc")}
    assert len(seeds) == 4
