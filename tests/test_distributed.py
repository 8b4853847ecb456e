"""The processes of one run: decisions of the first, and what all bring together."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

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
