"""The benches run and give every number that they explain."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import bench_control, bench_loop, bench_ring
from bench.instructions import plain, self_costs

ROOT = Path(__file__).resolve().parent.parent
SHORT = {
    bench_ring: ["--rounds", "2"],
    bench_control: ["--reads", "20", "--maps", "5", "--bring-ups", "1"],
    bench_loop: ["--seconds", "0.05", "--cpus", "0,0"],
}


@pytest.mark.slow
@pytest.mark.parametrize("bench", SHORT, ids=lambda bench: bench.__name__)
def test_bench_gives_every_number(bench) -> None:
    done = subprocess.run(
        [sys.executable, bench.__file__, "--json", *SHORT[bench]],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=True,
    )
    results = json.loads(done.stdout)["results"]
    assert results.keys() == bench.MEANING.keys()
    assert min(results.values()) > 0


def test_instructions_count_with_the_function_they_are_in() -> None:
    lines = [
        "fn=(1) __pyx_f_7emuiavf_8_ring_rx_rx_put",
        "10 5",
        "+1 7",
        "cfn=(2) toeplitz_clmul",
        "calls=1 3",
        "+1 100",
        "fn=(2)",
        "* 100",
        "+2",
    ]
    assert self_costs(lines) == {"__pyx_f_7emuiavf_8_ring_rx_rx_put": 12, "toeplitz_clmul": 100}


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("__pyx_f_7emuiavf_8_ring_rx_rx_put", "rx_put"),
        ("__pyx_f_7emuiavf_8datapath_8_offload_burst_judge", "burst_judge"),
        ("__pyx_pw_7emuiavf_8datapath_7_worker_6Worker_9step", "step"),
        ("toeplitz_clmul", "toeplitz_clmul"),
    ],
)
def test_names_of_functions_without_their_path(name: str, function: str) -> None:
    assert plain(name) == function
