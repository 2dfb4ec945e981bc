"""The benches run and give every number that they explain."""

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench import (
    bench_control,
    bench_idle,
    bench_loop,
    bench_many,
    bench_ring,
    bench_switch,
    bench_workers,
    limit,
    profile,
)
from bench.callgrind import plain, read
from bench.perf_counters import Counters

ROOT = Path(__file__).resolve().parent.parent
SHORT = {
    bench_ring: ["--rounds", "2"],
    bench_control: ["--reads", "20", "--maps", "5", "--bring-ups", "1"],
    bench_loop: ["--seconds", "0.05", "--cpus", "0,0"],
    bench_many: ["--devices", "3"],
    limit: ["--seconds", "0.05", "--runs", "1"],
}
TOUCHED = 16 << 20


def results_of(bench: ModuleType, *options: str) -> dict[str, float]:
    """What a bench finds, run as the program that it is."""
    done = subprocess.run(
        [sys.executable, str(bench.__file__), "--json", *options],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=True,
    )
    results: dict[str, float] = json.loads(done.stdout)["results"]
    return results


@pytest.mark.slow
@pytest.mark.parametrize("bench", SHORT, ids=lambda bench: bench.__name__)
def test_bench_gives_every_number(bench) -> None:
    results = results_of(bench, *SHORT[bench])
    assert results.keys() == bench.MEANING.keys()
    assert min(results.values()) > 0


@pytest.mark.slow
def test_idle_devices_are_told_in_every_mode() -> None:
    results = results_of(bench_idle, "--seconds", "0.2", "--frames", "3")
    assert results.keys() == bench_idle.MEANING.keys()
    # One more than fit into the time may come at its edges.
    for mode in ("busy", "adaptive", "trap"):
        for interval_us in bench_idle.ITR_US:
            assert 0 < results[f"{mode}_itr_{interval_us}_per_s"] <= 1e6 / interval_us + 2 / 0.2


def test_an_idle_device_is_judged_by_what_it_costs_and_adds() -> None:
    kept = dict.fromkeys(bench_idle.MEANING, 1.0)
    assert all(bench_idle.verdict(kept).values())
    for key, value in (
        ("adaptive_8_cpu_percent", 2.1),
        ("trap_cpu_percent", 2.1),
        ("adaptive_added_1000ms_us", 61.0),
        ("floor_cpu_percent", 5.0),
    ):
        (broken,) = [said for said, so in bench_idle.verdict(kept | {key: value}).items() if not so]
        assert broken.startswith(key.split("_cpu")[0].split("_added")[0])


@pytest.mark.slow
def test_as_many_workers_as_there_are_cpus_are_compared() -> None:
    results = results_of(bench_workers, "--seconds", "0.05", "--rounds", "1")
    most = min(bench_workers.MOST, len(os.sched_getaffinity(0)))
    assert {f"workers_{number}_mpps" for number in range(1, most + 1)} <= results.keys()
    assert results.keys() <= bench_workers.MEANING.keys()
    assert min(results.values()) > 0


@pytest.mark.slow
def test_many_devices_start_soon_and_are_small() -> None:
    """64 devices in one process, beside whatever else the machine does."""
    start_s, idle_mib, *_ = bench_many.measure(64)
    one_s, one_mib, *_ = bench_many.measure(1)
    assert start_s - one_s < bench_many.MAX_START_S
    assert (idle_mib - one_mib) / 63 < bench_many.MAX_IDLE_MIB


DUMP = """
fn=(1) __pyx_f_7emuiavf_8datapath_7_worker__turn
10 5
+1 7
cfn=(2) __pyx_f_7emuiavf_8_ring_rx_vf_put
calls=1 3
+1 160
fn=(2)
* 20
+2
cfn=(3) __pyx_f_7emuiavf_8_ring_rx_vf_put_some
calls=2 9
* 140
fn=(3)
9 40
cfn=(4) toeplitz_clmul
calls=1 3
+1 100
fn=(4)
* 100
"""


def test_instructions_count_with_the_function_they_are_in() -> None:
    costs = read(DUMP.splitlines())
    assert costs.own == {"_turn": 12, "vf_put": 20, "vf_put_some": 40, "toeplitz_clmul": 100}
    assert costs.all == 172


def test_a_stage_has_what_it_calls_once() -> None:
    costs = read(DUMP.splitlines())
    assert costs.spent_in("vf_put") == 160
    assert costs.spent_in("toeplitz") == 100
    assert costs.spent_in("tx_take") == 0


@pytest.mark.slow
def test_instructions_per_frame_have_not_risen() -> None:
    try:
        risen = profile.check()
    except profile.NoFigures as reason:
        pytest.skip(str(reason))
    assert risen == []


@pytest.mark.slow
def test_a_switch_finds_its_way_at_one_price() -> None:
    try:
        found = bench_switch.measure()
    except profile.NoFigures as reason:
        pytest.skip(str(reason))
    assert found.keys() == bench_switch.MEANING.keys()
    assert bench_switch.slopes(found) == []


def test_a_price_that_rises_is_told() -> None:
    found = dict.fromkeys(bench_switch.MEANING, 50.0)
    assert bench_switch.slopes(found) == []
    found |= {"members_64": 56.0, "stations_100000": 60.0}
    assert len(bench_switch.slopes(found)) == 2


FIGURES = {"bare": {"all": 100.0, "take": 40.0, "route": 10.0, "put": 40.0, "done": 0.1}}


@pytest.mark.parametrize(
    ("change", "complaints"),
    [({}, 0), ({"all": 104.9}, 0), ({"put": 42.6}, 1), ({"all": 106.0, "done": 0.7}, 2)],
)
def test_a_rise_over_the_figures_is_told(change: dict[str, float], complaints: int) -> None:
    found = {"bare": FIGURES["bare"] | change}
    assert len(profile.rises(found, FIGURES)) == complaints


def test_figures_are_there_for_every_case() -> None:
    figures = json.loads(profile.FIGURES.read_text())
    assert [cases.keys() for cases in figures.values()] == [profile.CASES.keys()] * len(figures)


@pytest.mark.parametrize("name", profile.CASES)
def test_every_frame_of_a_case_arrives(name: str) -> None:
    rounds = profile.CASES[name].set_up()
    for _ in range(3):
        rounds.round()
    assert rounds.frames > 300


def test_counters_count_only_within() -> None:
    page_faults = {"page_faults": (1, 2)}
    try:
        counters = Counters.open(page_faults)
    except OSError as error:
        pytest.skip(f"perf_event_open: {error}")
    with mmap.mmap(-1, 3 * TOUCHED, mmap.MAP_PRIVATE) as memory:
        memory[:TOUCHED] = bytes(TOUCHED)
        with counters.counting():
            for page in range(TOUCHED, 2 * TOUCHED, mmap.PAGESIZE):
                memory[page] = 1
        memory[2 * TOUCHED :] = bytes(TOUCHED)
    # With huge pages there are fewer; the interpreter may have some of its own.
    assert 2 <= counters.read()["page_faults"] < 2 * TOUCHED // mmap.PAGESIZE
    assert counters.read() == {"page_faults": 0}
    counters.close()


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
