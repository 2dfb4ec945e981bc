"""`emuiavf demo` as a user runs it: its exit code, its report, and that it sees damage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from emuiavf.demo import DemoError, DemoOptions, run_demo


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emuiavf", "demo", "--seconds", "0.3", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def result(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert run.stderr == ""
    parsed: dict[str, Any] = json.loads(run.stdout)
    return parsed


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--size", "64"),
        ("--size", "1518", "--queues", "2"),
        ("--size", "9000", "--queues", "4", "--workers", "2"),
    ],
    ids=" ".join,
)
def test_demo_loses_nothing_and_exits_0(options: tuple[str, ...]) -> None:
    run = demo("--json", *options)

    found = result(run)
    assert run.returncode == 0
    assert found["ok"]
    assert [(one["from"], one["to"]) for one in found["directions"]] == [
        ("emu_iavf0", "emu_iavf1"),
        ("emu_iavf1", "emu_iavf0"),
    ]
    for one in found["directions"]:
        assert (one["lost"], one["reordered"], one["corrupted"]) == (0, 0, 0)
        assert one["received"] == one["sent"] > 100
        assert min(one["mpps"], one["gbps"], one["latency_p50_us"], one["latency_p99_us"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("inject", "fault"), [("flip", "corrupted"), ("skip", "lost")])
def test_demo_sees_one_bad_frame_and_exits_1(inject: str, fault: str) -> None:
    run = demo("--json", "--inject", inject)

    found = result(run)
    assert run.returncode == 1
    assert not found["ok"]
    faults = {key: found["directions"][0][key] for key in ("lost", "reordered", "corrupted")}
    assert faults == {"lost": 0, "reordered": 0, "corrupted": 0, fault: 1}


@pytest.mark.slow
def test_demo_on_one_cpu_is_clean() -> None:
    one_cpu = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    command = [*one_cpu, sys.executable, "-m", "emuiavf", "demo", "--seconds", "0.3"]

    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 lost, 0 reordered, 0 corrupted" in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_interrupted_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "emuiavf", "demo", "--seconds", "60"]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("*/*.sock")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

        process.send_signal(number)
        _, said = process.communicate(timeout=30)

    assert (process.returncode, said) == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_failure_of_the_guests_is_told_in_their_last_words() -> None:
    with pytest.raises(DemoError, match=r"ValueError: sizes 63\.\.63"):
        run_demo(DemoOptions(seconds=0.1, size=63), lambda rows: None)


def test_progress_is_told_while_frames_go() -> None:
    seen: list[int] = []

    run_demo(DemoOptions(seconds=0.3), lambda rows: seen.append(rows[0]["received"]))

    assert len(seen) >= 2
    assert seen == sorted(seen)
    assert seen[-1] > 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--size", "63"), "--size 63: 64 to 9728"),
        (("--queues", "17"), "--queues 17: 1 to 16"),
        (("--workers", "0"), "--workers 0: 1 to 64"),
        (("--seconds", "-1"), "--seconds -1: more than 0, at most 86400"),
    ],
)
def test_demo_refuses_wrong_options_in_one_line(options: tuple[str, ...], text: str) -> None:
    run = demo(*options)

    assert run.returncode == 2
    assert run.stderr == f"emuiavf: {text}\n"
