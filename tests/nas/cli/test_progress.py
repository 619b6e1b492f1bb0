"""The time that is left, with an artificial clock."""

import pytest

from nas.cli.progress import TimeLeft


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_the_time_left_is_that_of_the_whole_work_so_far():
    clock = Clock()
    left = TimeLeft(clock)
    left.update(0.0)
    assert left.text() == ""
    clock.now += 60
    left.update(0.01)
    assert left.text() == "1:39:00 left"
    clock.now += 60  # It runs down between two updates.
    assert left.text() == "1:38:00 left"
    left.update(0.5)
    assert left.text() == "0:02:00 left"
    clock.now += 500
    assert left.text() == "0:00:00 left"


@pytest.mark.parametrize(
    ("share", "text"), [(0.001, "11:06:00 left"), (0.0001, "4 days, 15:06:00 left"), (1, "0:00:00 left")]
)
def test_days_and_the_end(share, text):
    clock = Clock()
    left = TimeLeft(clock)
    left.update(0)
    clock.now += 40
    left.update(share)
    assert left.text() == text
