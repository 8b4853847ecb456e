"""Time, items, memory and padding of timings."""

import mmap
import threading
import time

import pytest

from disret.encode.timings import STATUS, Timings, peak_growth


def test_times_and_items_add_up():
    timings = Timings()
    for _ in range(2):
        with timings.measure("encode", 5) as stage:
            stage.tokens += 30
            stage.positions += 40
            time.sleep(0.05)
    with timings.measure("search"):
        pass
    encode, search = timings.rows()
    assert encode["stage"] == "encode"
    assert 0.1 <= encode["seconds"] < 5
    assert encode["items"] == 10
    assert encode["items_per_second"] > 0
    assert encode["padding_percent"] == 25.0
    assert search["padding_percent"] is None


@pytest.mark.skipif(not STATUS.exists(), reason="this system does not tell a process's memory")
def test_peak_memory_is_that_of_the_stage():
    timings = Timings()

    # Asked of the system: an array may lie in what this process has freed, and take nothing.
    def fill():
        with mmap.mmap(-1, 240_000_000) as held:
            for start in range(0, len(held), mmap.PAGESIZE):
                held[start] = 1

    with timings.measure("before"):
        pass
    with timings.measure("around"):
        with timings.measure("large"):
            fill()
        with timings.measure("after"):
            pass
    before, around, large, after = (row["peak_memory_mb"] for row in timings.rows())
    assert max(before, after) + 200 < large == around
    assert 230e6 < peak_growth(fill, "cpu") < 300e6


def test_stages_of_other_threads_overlap():
    timings = Timings()

    def read():
        with timings.measure("read", 1):
            time.sleep(0.2)

    thread = threading.Thread(target=read)
    with timings.measure("encode", 1):
        thread.start()
        time.sleep(0.2)
    thread.join()
    assert all(row["seconds"] >= 0.19 for row in timings.rows())
