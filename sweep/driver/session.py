"""What a run of a study carries from its opening to its end."""

from dataclasses import dataclass

from seqsweep.sweep.driver.bucket_mirror import Mirror
from seqsweep.sweep.driver.publish import Publisher
from seqsweep.sweep.driver.view import View
from seqsweep.sweep.engine.opened_log import TrialData
from seqsweep.sweep.settings.study_config import StudyConfig
from seqsweep.sweep.study.study import Study


@dataclass(frozen=True)
class Session:
    config: StudyConfig
    study: Study
    data: TrialData
    publisher: Publisher
    mirror: Mirror
    view: View
