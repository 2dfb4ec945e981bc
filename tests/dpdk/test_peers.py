"""bench/peers.py brings every contender up, and leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import dpdk, peers

ROOT = Path(__file__).resolve().parents[2]
HUGE = Path("/proc/sys/vm/nr_hugepages")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two contenders need two CPUs")
@pytest.mark.parametrize("case", ["io_64", "rxonly_64"])
def test_every_contender_of_a_case_moves_frames(case: str, tmp_path: Path) -> None:
    try:
        dpdk.find()
    except dpdk.Missing as missing:
        pytest.skip(str(missing))
    before = HUGE.read_text()
    done = subprocess.run(
        [sys.executable, peers.__file__, case, "--json", "--runs", "1", "--seconds", "0.5"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["missing"] == {}
    assert found["medians"].keys() >= peers.CONTENDERS.keys()
    # Of DPDK's rings the best counts: some stand still now and then.
    assert all(found[ratio] for ratio in ("mpps", *peers.GROUPS))
    assert list(tmp_path.iterdir()) == []
    assert HUGE.read_text() == before
