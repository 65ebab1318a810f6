import threading
import time

import pytest

from seqsweep.sweep.cluster import driver_lock as turn_module
from seqsweep.sweep.cluster.driver_lock import hold_driver_lock


def test_a_second_driver_waits_for_the_first(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_module, "POLL_S", 0.05)
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with hold_driver_lock("other", said.append):
            order.append("second")

    with hold_driver_lock("mine", said.append):
        assert said == []
        waiting = threading.Thread(target=second)
        waiting.start()
        while not said:
            time.sleep(0.01)
        time.sleep(0.2)  # it looks several times, and says it once
        order.append("first")
    waiting.join(timeout=60)
    assert order == ["first", "second"]
    (text,) = said
    assert text.startswith("study mine (process ") and "is running on this cluster: waiting" in text


def test_the_turn_is_given_back_after_an_error(ray_address: str) -> None:
    with pytest.raises(RuntimeError, match="mine"), hold_driver_lock("mine", print):
        raise RuntimeError("mine")
    with hold_driver_lock("mine", pytest.fail):
        pass
