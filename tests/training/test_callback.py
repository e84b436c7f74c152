"""The checkpoint callback: what it carries from one process to the next."""

import time

from oodgen.training.callback import Checkpoints


def test_seconds_add_up_over_the_processes_of_a_training(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    first = Checkpoints(tmp_path)
    now[0] = 130.0
    saved = first.state_dict()
    now[0] = 5000.0  # another process, later
    second = Checkpoints(tmp_path)
    second.load_state_dict(saved)
    now[0] = 5012.0
    assert second.spent == 30 + 12
    second.load_state_dict({"best": 0.0, "step": 3})  # of a build that did not count
    assert second.spent == 12
