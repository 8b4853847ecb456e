"""Time, items, memory and padding of timings."""

import mmap
import threading
import time

import pytest

from disret.encode.timings import STATM, Timings


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


@pytest.mark.skipif(not STATM.exists(), reason="this system does not tell a process's memory")
def test_peak_memory_is_that_of_the_stage():
    timings = Timings()
    with timings.measure("small"):
        time.sleep(0.1)
    # Asked of the system: an array may lie in what this process has freed, and take nothing.
    with timings.measure("large"), mmap.mmap(-1, 240_000_000) as held:
        for start in range(0, len(held), mmap.PAGESIZE):
            held[start] = 1
        time.sleep(0.2)
    small, large = (row["peak_memory_mb"] for row in timings.rows())
    assert small + 200 < large


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


def test_many_short_stages_are_watched_by_one_thread():
    timings = Timings()
    before = threading.active_count()
    for _ in range(200):
        with timings.measure("write"):
            pass
    assert threading.active_count() <= before + 1
