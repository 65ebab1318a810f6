"""What the log decides of a space."""

from seqsweep.search_spaces.compose import draws
from seqsweep.sweep.driver.study_space import StudySpace, build_space, fitted_space
from seqsweep.sweep.settings.protocol import ProtocolConfig
from seqsweep.sweep.settings.study_config import SpaceConfig
from seqsweep.sweep.study.attributes import StudyAttributes
from tests.logs import random_log

NAMES = ["sasrec", "gru4rec"]


def test_seen_items_stay_in_the_loss_where_rankings_keep_them() -> None:
    log = random_log()
    removed = fitted_space(SpaceConfig(), ProtocolConfig(seen="remove"), log)
    assert removed == SpaceConfig()
    assert {h["exclude_seen"] for h in draws(build_space(removed, NAMES), 40)} == {False, True}
    kept = fitted_space(SpaceConfig(), ProtocolConfig(seen="keep"), log)
    assert {h["exclude_seen"] for h in draws(build_space(kept, NAMES), 40)} == {False}
    pinned = SpaceConfig(fix={"exclude_seen": True})
    assert fitted_space(pinned, ProtocolConfig(seen="keep"), log) == pinned


def test_a_study_keeps_the_space_as_it_was_fitted() -> None:
    """Commands that know the study alone, `enqueue` say, take it from there; older studies have none."""
    fitted = SpaceConfig(fix={"exclude_seen": False})
    identity = {"space": SpaceConfig().model_dump(mode="json")}
    attributes: StudyAttributes = {"identity": identity, "families": NAMES}
    assert StudySpace.of(attributes).config == SpaceConfig()
    assert StudySpace.of({**attributes, "space": fitted.model_dump(mode="json")}).config == fitted
