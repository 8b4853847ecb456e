"""The processes of one run: decisions of the first, and what all bring together."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file

from disret import distributed


def test_alone_everything_is_decided_here():
    distributed.join()
    assert distributed.rank() == 0
    assert distributed.decided_by_first(lambda: "x") == "x"
    assert distributed.gathered_by_first(3) == [3]
    distributed.wait_for_all()
    distributed.leave()


PROGRAM = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from disret import distributed
distributed.join()
rank = distributed.rank()
decided = distributed.decided_by_first(lambda: {{"by": rank}})
gathered = distributed.gathered_by_first(rank * 10)
distributed.wait_for_all()
open(f"{{sys.argv[1]}}/{{rank}}.json", "w").write(json.dumps([decided, gathered]))
distributed.leave()
"""


@pytest.mark.torchrun
def test_three_processes(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3",
               str(tmp_path / "program.py"), str(tmp_path)]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert found == [[{"by": 0}, [0, 10, 20]], [{"by": 0}, None], [{"by": 0}, None]]


# --- Two hosts ------------------------------------------------------------------------------------

HOSTS = {"disret-a": "10.217.3.1", "disret-b": "10.217.3.2"}  # network namespaces


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, check=True)


@pytest.fixture
def hosts():
    """Two network namespaces, which share files and a cable alone."""
    first, second = HOSTS
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("link", "add", "veth", "netns", first, "type", "veth", "peer", "veth", "netns", second)
        for host, address in HOSTS.items():
            ip("-n", host, "addr", "add", f"{address}/24", "dev", "veth")
            for device in ("lo", "veth"):
                ip("-n", host, "link", "set", device, "up")
        yield HOSTS
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces cannot be made here")
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], capture_output=True, check=False)


@contextmanager
def started(hosts, port, *words):
    """A script on each host; what is left of it ends with the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "veth"}
    first = next(iter(hosts.values()))
    processes = [
        subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run",
             "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1",
             "--master-addr", first, "--master-port", str(port), *map(str, words)],
            env=environment, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank, host in enumerate(hosts)
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.long
@pytest.mark.torchrun
def test_two_hosts_of_which_one_dies(hosts, teacher, queries, valid_queries, collection, tmp_path):
    """What is resumed is what an unbroken run on both makes, and scored by both."""
    words = [ROOT / "distill.py", "--teacher", teacher, "--recipe", "paper", "--layers", 0,
             "--queries", queries, "--valid-queries", valid_queries, "--device", "cpu",
             "--train-batch-size", 16, "--warmup-steps", 2, "--eval-steps", 4,
             "--max-queries", 192, "--num-epochs", 20, "--output"]  # fmt: skip
    with started(hosts, 29411, *words, tmp_path / "unbroken") as processes:
        for process in processes:
            out, _ = process.communicate()
            assert process.returncode == 0, out[-2000:]
    with started(hosts, 29412, *words, tmp_path / "student") as processes:
        checkpoints = tmp_path / "student.partial" / "checkpoints"
        while not list(checkpoints.glob("checkpoint-*/trainer_state.json")):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.01)
        os.killpg(processes[1].pid, signal.SIGKILL)
    assert not (tmp_path / "student").exists()
    with started(hosts, 29413, *words, tmp_path / "student", "--resume") as processes:
        for process in processes:
            out, _ = process.communicate()
            assert process.returncode == 0, out[-2000:]
    found, wanted = (load_file(tmp_path / name / "model.safetensors")
                     for name in ("student", "unbroken"))  # fmt: skip
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
    report = json.loads((tmp_path / "student" / "distillation.json").read_text())
    assert report["resumed_at_step"] > 0
    assert report["processes"] == 2
    words = [ROOT / "benchmark.py", "--datasets", collection, "--document-encoder", teacher,
             "--query-encoder", tmp_path / "student", "--device", "cpu", "--output",
             tmp_path / "scores.csv"]  # fmt: skip
    with started(hosts, 29414, *words) as processes:
        for process in processes:
            out, _ = process.communicate()
            assert process.returncode == 0, out[-2000:]
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 3
