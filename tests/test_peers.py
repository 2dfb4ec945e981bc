"""What bench/peers.py makes of what programs say; the programs themselves run in `make bench`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import contenders, dpdk, hugepages, peers, plot, testpmd
from bench.contenders import Contender
from bench.limit import Window

STATS = """
  ######################## NIC statistics for port {port}  ########################
  RX-packets: 12345      RX-missed: 0          RX-bytes:  790080
  TX-nombuf:  0

  Throughput (since last show)
  Rx-pps:     {rx}          Rx-bps:   5373276672
  Tx-pps:     {tx}          Tx-bps:   5373276672
  ############################################################################
"""


def fake_testpmd(path: Path, script: str) -> dpdk.Testpmd:
    """A program that behaves as `script` (Python) says, whatever its arguments are."""
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsay = lambda t: print(t, flush=True)\n{script}"
    )
    path.chmod(0o755)
    return dpdk.Testpmd((str(path),), "DPDK 0")


ANSWERS = f"""
import time
say("EAL: up")
say("testpmd> ")
stats = {STATS!r}
for line in sys.stdin:
    if line.startswith("show port stats"):
        say(stats.format(port=0, rx=1500000, tx=7))
        time.sleep(0.01)  # the other side reads the half of it
        say(stats.format(port=1, rx=2500000, tx=8))
    elif line.startswith("show port summary"):
        say("Number of available ports: 1\\nPort MAC Name Driver Status   Link\\n"
            "0    4A:DA net_x net_x      up     100 Gbps\\ntestpmd> ")
    elif line.startswith("set fwd"):
        say("Set " + line.split()[2] + " packet forwarding mode")
    elif line.startswith("set txpkts"):
        say(line)
    elif line.startswith("stop"):
        say("  +++ Accumulated forward statistics for all ports +++\\n  RX-packets: 0\\n\\nDone.")
    elif line.startswith("start"):
        say("  " + line.split()[0] + " packets/burst=32 " + line)
"""


def test_rates_are_those_of_each_port(tmp_path: Path) -> None:
    with testpmd.Process(fake_testpmd(tmp_path / "pmd", ANSWERS), 0, ports=2) as process:
        process.wait_link()
        process.forward("macswap", 64, 4)
        assert process.rates() == [testpmd.Rates(1500000, 7), testpmd.Rates(2500000, 8)]
        process.halt()
        assert process.rates() == [testpmd.Rates(1500000, 7), testpmd.Rates(2500000, 8)]


def test_a_program_that_ends_is_told_with_its_complaint(tmp_path: Path) -> None:
    broken = fake_testpmd(tmp_path / "pmd", 'say("EAL: Cannot init memory"); sys.exit(1)')
    with pytest.raises(testpmd.Failed, match="has ended: EAL: Cannot init memory"):
        testpmd.Process(broken, 0, ports=1)


def test_a_silent_program_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testpmd, "START_S", 0.2)
    silent = fake_testpmd(tmp_path / "pmd", "sys.stdin.read()")
    with pytest.raises(testpmd.Failed, match="did not say"):
        testpmd.Process(silent, 0, ports=1)


def test_a_stopped_program_is_ended_with_its_children(tmp_path: Path) -> None:
    script = f"""
import subprocess
child = subprocess.Popen([{sys.executable!r}, "-c", "import sys; sys.stdin.read()"])
say(f"child {{child.pid}}")
say("testpmd> ")
child.wait()
"""
    process = testpmd.Process(fake_testpmd(tmp_path / "pmd", script), 0, ports=1)
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    process.signal(signal.SIGSTOP)
    process.close()
    assert not Path(f"/proc/{process.pid}").exists()
    state = re.compile(r"\) Z ")
    deadline = time.monotonic() + 5
    while (stat := Path(f"/proc/{child}/stat")).exists() and not state.search(stat.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def outcome(**medians: float) -> peers.Outcome:
    return peers.Outcome({name.replace("_", " ", 1): [rate] * 3 for name, rate in medians.items()})


def test_ratios_are_of_the_best_of_each_kind() -> None:
    found = outcome(emuiavf=30.0, vhost_split=5.0, vhost_packed=10.0, memif=12.0)
    found.turns["apart_64"] = [40.0, 60.0, 50.0]
    ratios = found.ratios(64)
    assert ratios == {"mpps": 30.0, "vs_vhost": 3.0, "vs_memif": 2.5, "vs_limit": 0.6}


def test_what_did_not_run_has_no_ratio() -> None:
    assert outcome(vhost_split=5.0).ratios(64) == {
        "mpps": None,
        "vs_vhost": None,
        "vs_memif": None,
        "vs_limit": None,
    }
    assert outcome(emuiavf=5.0).ratios(64)["vs_vhost"] is None


def test_json_of_a_case_has_its_keys_and_reasons() -> None:
    found = outcome(emuiavf=30.0, memif=12.0)
    found.missing["vhost split"] = "no such driver"
    line = json.loads(peers.as_json("io_64", found, {"cpu": "x"}))
    assert line["case"] == "io_64"
    assert (line["mpps"], line["vs_memif"], line["vs_vhost"]) == (30.0, 2.5, None)
    assert line["missing"] == {"vhost split": "no such driver"}
    assert line["cpu"] == "x"


def test_every_case_has_goals_and_every_contender_a_kind() -> None:
    assert peers.GOALS.keys() == peers.CASES.keys()
    kinds = {name for names in peers.GROUPS.values() for name in names}
    assert kinds | contenders.OURS.keys() == peers.CONTENDERS.keys()
    drawn = {name for _, names in plot.GROUPS.values() for name in names}
    assert peers.CONTENDERS.keys() <= drawn


class Scripted(Contender):
    """Gives these windows, one after the other."""

    def __init__(self, *windows: Window) -> None:
        self.windows = list(windows)
        self.said: list[str] = []
        self.restart = None

    def pause(self) -> None:
        self.said.append("pause")

    def resume(self) -> None:
        self.said.append("resume")

    def measure(self, seconds: float) -> Window:
        return self.windows.pop(0)


@pytest.mark.parametrize(
    ("windows", "kept"),
    [
        ([Window(9.0, True)], Window(9.0, True)),
        ([Window(2.0, False), Window(8.0, True)], Window(8.0, True)),
        ([Window(2.0, False), Window(5.0, False), Window(3.0, False)], Window(5.0, False)),
    ],
)
def test_a_disturbed_turn_is_taken_again(
    windows: list[Window], kept: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "SETTLE_S", 0)
    contender, found = Scripted(*windows), peers.Outcome()
    found.add("memif", peers.turn(contender, 0.0, 2))
    assert found.turns == {"memif": [kept.mpps]}
    assert found.disturbed == (not kept.whole)
    assert contender.said == ["resume", "pause"]
    assert contender.windows == []


def test_a_contender_that_stands_still_is_started_again_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "SETTLE_S", 0)
    contender = Scripted(Window(0.0, True), Window(7.0, True))
    contender.restart = lambda: contender.said.append("restart")
    assert peers.turn(contender, 0.0, 0) == Window(7.0, True)
    assert contender.said == ["resume", "restart", "pause"]


def test_ours_that_stands_still_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SETTLE_S", 0)
    assert peers.turn(Scripted(Window(0.0, True)), 0.0, 0) == Window(0.0, True)


def test_busy_time_is_that_of_the_busiest_thread_of_a_family() -> None:
    spin = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    family = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}]); input()"
    child = subprocess.Popen([sys.executable, "-c", family], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        seen = 0
        while seen < 150_000_000:
            seen = max(seen, contenders.busiest_ns(child.pid))
            assert time.monotonic() < deadline
    finally:
        child.kill()
        child.communicate()


def test_huge_pages_that_cannot_be_had_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hugepages, "RESERVED", tmp_path)
    monkeypatch.setattr(hugepages, "free", lambda: 0)
    (tmp_path / "x").touch()
    monkeypatch.setattr(hugepages, "RESERVED", tmp_path / "x")
    (tmp_path / "x").write_text("3\n")
    with hugepages.reserved(64) as got:
        assert not got
        assert (tmp_path / "x").read_text() == "35"
        # Somebody else's, who goes on.
        (tmp_path / "x").write_text("45")
    assert (tmp_path / "x").read_text() == "13"


def test_without_apt_and_testpmd_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Unpacked where everybody may write it would be looked for in the home folder.
    monkeypatch.setattr(dpdk, "cache_folder", lambda wanted: wanted)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(dpdk.Missing, match="no dpdk-testpmd, and no apt"):
        dpdk.find(cache=tmp_path / "cache")
    with pytest.raises(dpdk.Missing, match="apt-get install dpdk-dev"):
        dpdk.find(fetch=False, cache=tmp_path / "cache")
    assert os.listdir(tmp_path) == []


def test_drivers_are_unpacked_where_eal_loads_them_from(tmp_path: Path) -> None:
    everybodys = tmp_path / "everybodys"
    everybodys.mkdir()
    everybodys.chmod(0o777)
    assert dpdk.cache_folder(everybodys / "cache" / "dpdk") == Path.home() / ".cache/emuiavf/dpdk"
    assert dpdk.cache_folder(Path("/usr/share/dpdk")) == Path("/usr/share/dpdk").resolve()


def test_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMUIAVF_DPDK_CACHE", "/usr/share/elsewhere")
    assert dpdk.cache_folder() == Path("/usr/share/elsewhere")
    monkeypatch.setenv("EMUIAVF_DPDK_CACHE", "")
    assert dpdk.cache_folder() == dpdk.cache_folder(dpdk.CACHE)
