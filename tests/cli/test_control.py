"""`emuiavf set`, `show`, `reset`, `inject` on a running process, our own driver being the guest."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from emuiavf.cli import main
from emuiavf.cli.completion import SHELLS
from emuiavf.cli.words import injections, words
from emuiavf.control.methods import Set
from emuiavf.guest.channel import NoAnswer, RequestRefused
from emuiavf.guest.driver import VfDriver
from emuiavf.guest.frames import Frame
from emuiavf.iavf import regs
from emuiavf.stats import named, open_segment
from emuiavf.virtchnl.messages import FdirAdd, FilterAction, RssHfunc, raw_pattern
from emuiavf.virtchnl.ops import Action, Cap, Op
from tests.cli.process import Running

pytestmark = pytest.mark.slow

MACS = [bytes.fromhex(f"02000000000{number}") for number in (1, 2)]
DEADLINE_S = 20.0


@pytest.fixture(scope="module", autouse=True)
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A runtime directory of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runtime")
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder / "emuiavf"


@dataclass
class Bench:
    process: Running
    paths: list[Path]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Two devices, wired 1:1, in one process for all tests; each leaves them as it found them."""
    folder = tmp_path_factory.mktemp("control")
    paths = [folder / f"{number}.sock" for number in range(2)]
    vdevs = [
        f"--vdev=emu_iavf{number},path={path},mac={MACS[number].hex(':')}"
        for number, path in enumerate(paths)
    ]
    with Running(*vdevs, "--connect=emu_iavf0,emu_iavf1") as process:
        yield Bench(process, paths)
        code, _, err = process.end(signal.SIGTERM)
    assert code == 0
    assert "Traceback" not in err


@pytest.fixture
def pair(bench: Bench) -> Iterator[tuple[VfDriver, VfDriver]]:
    """A driver on each, with a queue pair, and frames that pass."""
    with VfDriver(bench.paths[0]) as first, VfDriver(bench.paths[1]) as second:
        for vf in (first, second):
            vf.start(ring_len=256)
        yield first, second


def carried_out(*args: str) -> tuple[int, str, str]:
    """The command in this process, which is quicker: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(args)
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


def run(*args: str) -> str:
    """A command that must succeed; what it prints."""
    code, out, err = carried_out(*args)
    assert (code, err) == (0, "")
    return out


def refused(*args: str) -> str:
    """A command that must not; the one line that it says."""
    code, out, err = carried_out(*args)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


def state(vf: str = "vf0") -> dict[str, Any]:
    (found,) = json.loads(run("show", vf, "--json"))
    assert isinstance(found, dict)
    return found


def until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def frame(src: bytes, dst: bytes, size: int = 100) -> bytes:
    return dst + src + b"\x88\xb5" + bytes(size - 14)


def passes(first: VfDriver, second: VfDriver) -> list[Frame]:
    """One frame from the first to the second; it must arrive."""
    data = frame(first.mac, second.mac)
    got: list[Frame] = []

    def arrived() -> bool:
        got.extend(second.queues[0].receive())
        return bool(got)

    assert first.queues[0].send([data]) == 1
    assert until(arrived)
    return got


def come_back(vf: VfDriver, *, announced: bool = True) -> None:
    """What a driver does about a reset of its PF."""
    if announced:
        assert until(lambda: vf.channel.poll() is None and vf.channel.reset_announced)
    assert until(lambda: not vf.channel.queue.is_enabled)
    vf._recover(with_version=not announced)


# show, and what is refused


def test_show_lists_the_vfs_for_people(bench: Bench) -> None:
    text = run("show")
    assert text.startswith("emu_iavf0: link up, driver none, mac 02:00:00:00:00:01, ")
    assert "emu_iavf1: " in text
    assert "trust on, link-state auto, min-rate 0, max-rate 0, mtu 9702" in text


def test_show_as_json_has_the_words_of_set(bench: Bench) -> None:
    shown = state("vf1")
    assert shown["name"] == "emu_iavf1"
    assert {word.name for word in words(Set)} <= set(shown)


def test_show_says_what_the_driver_does(pair: tuple[VfDriver, VfDriver]) -> None:
    assert state()["driver"] == "ready"


def test_show_counts_what_the_driver_asked(pair: tuple[VfDriver, VfDriver]) -> None:
    with pytest.raises(RequestRefused):
        pair[0].channel.request(Op.CONFIG_RSS_HFUNC, RssHfunc(0, 99))
    pair[0].stats()
    shown = state()
    assert shown["answered"]["GET_STATS"] >= 1
    assert shown["answered"]["GET_VF_RESOURCES"] >= 1
    assert shown["refused"]["CONFIG_RSS_HFUNC"] == 1
    assert "refused: CONFIG_RSS_HFUNC 1" in run("show", "vf0")


def test_show_counts_what_rules_have_matched(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    of_ours = raw_pattern(frame(first.mac, second.mac)[:14], b"\xff" * 14)
    number = second.settings.add_flow(FdirAdd.of(of_ours, [FilterAction(Action.PASSTHRU)]))
    assert state("vf1")["rules"] == {str(number): 0}
    passes(first, second)
    passes(first, second)
    assert until(lambda: state("vf1")["rules"] == {str(number): 2})
    assert f"rules: {number} 2" in run("show", "vf1")
    second.settings.remove_flow(number)
    assert state("vf1")["rules"] == {}
    assert "rules" not in run("show", "vf1")


def test_socket_may_be_named(bench: Bench, runtime: Path) -> None:
    path = runtime / f"{bench.process.pid}.control"
    by_option = run("show", "--control", str(path))
    by_variable = subprocess.run(
        ["env", f"EMUIAVF_CONTROL={path}", "XDG_RUNTIME_DIR=/nowhere", *command("show")],
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip
    assert by_option == by_variable == run("show")


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "emuiavf", *args]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["set", "vf9", "mtu", "1500"], "vf9: no running process has such a VF"),
        (["set", "vf0", "colour", "red"], "colour: no such word; there are mac, vlan"),
        (["set", "vf0", "mtu"], "mtu: its value is missing"),
        (["set", "vf0", "mtu", "1500", "mtu", "9000"], "mtu is there twice"),
        (["set", "vf0", "mtu", "many"], "mtu many: a number is wanted"),
        (["set", "vf0", "mtu", "10000"], "mtu: "),
        (["set", "vf0", "mac", "1:2:3"], "mac: not six bytes"),
        (["set", "vf0", "mac", "ff:ff:ff:ff:ff:ff"], "not a unicast address"),
        (["set", "vf0", "trust", "maybe"], "trust maybe: one of on, off is wanted"),
        (["set", "vf0", "min-rate", "20", "max-rate", "10"], "more than max-rate 10"),
        (["set", "vf0", "qos", "3"], "set vlan as well"),
        (["inject", "vf0", "rx-corrupt", "0"], "count: "),
        (["inject", "vf0", "adminq-error", "NONSENSE", "-5"], "NONSENSE: neither a number"),
        (["show", "vf0", "--control", "/nowhere/x"], "/nowhere/x: No such file"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(
    bench: Bench, args: list[str], message: str
) -> None:
    text = refused(*args)
    assert text.startswith("emuiavf: ")
    assert message in text


# switches, fdb


@dataclass
class Net:
    """A guest, two stations and two ways out in sw0; three ports in a switch without a name."""

    control: str
    paths: list[Path]

    def run(self, *args: str) -> str:
        return run(*args, "--control", self.control)

    def fdb(self, *args: str) -> list[dict[str, Any]]:
        found = json.loads(self.run("fdb", *args, "--json"))
        assert isinstance(found, list)
        return found


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    path, control = tmp_path / "vf.sock", str(tmp_path / "ctl")
    gens = [
        f"--port=gen{n},type=gen,count=5,src=02:00:00:00:00:a{n},dst=02:00:00:00:00:01"
        for n in range(2)
    ]
    others = [f"--port=null{n},type=null" for n in range(5)]
    connect = ["--connect=sw0,emu_iavf0,gen0,gen1,null3,null4", "--connect=null0,null1,null2"]
    vdev = f"--vdev=emu_iavf0,path={path},mac=02:00:00:00:00:01"
    switch = "--switch=sw0,age=1000,storm=500"
    with Running(vdev, *gens, *others, switch, *connect, "--control", control) as process:
        yield Net(control, [path])
        code, _, err = process.end(signal.SIGTERM)
    assert (code, "Traceback" in err) == (0, False)


def test_switches_are_told_with_their_members(net: Net) -> None:
    first, second = json.loads(net.run("switches", "--json"))
    assert first["name"] == "sw0"
    assert first["members"] == ["emu_iavf0", "gen0", "gen1", "null3", "null4"]
    assert (first["age"], first["storm"], first["evicted"]) == (1000, 500, 0)
    assert second["name"] == "null0,null1,null2"
    text = net.run("switches")
    assert "sw0: emu_iavf0 gen0 gen1 null3 null4\n    age 1000, storm 500, learned " in text


def test_fdb_tells_stations_and_what_guests_asked_for(net: Net) -> None:
    own = {"mac": "02:00:00:00:00:01", "dev": "emu_iavf0", "vlan": 0, "master": "sw0"}
    assert net.fdb("sw0", "--dev", "emu_iavf0") == [{**own, "state": "permanent", "used": 0}]
    assert until(lambda: len(net.fdb("sw0")) == 3)
    learned = net.fdb("sw0")[:2]
    assert sorted((one["mac"], one["dev"], one["state"]) for one in learned) == [
        ("02:00:00:00:00:a0", "gen0", "learned"),
        ("02:00:00:00:00:a1", "gen1", "learned"),
    ]
    with VfDriver(net.paths[0]) as vf:
        vf.start(ring_len=64)
        many = [bytes([2, 0, 0, 1, n >> 8, n & 255]) for n in range(200)]
        vf.settings.add_macs(*many)
        asked = net.fdb("sw0", "--dev", "emu_iavf0")
        assert [one["mac"] for one in asked] == [m.hex(":") for m in (vf.mac, *many)]
        assert {one["state"] for one in asked} == {"permanent"}
        assert len(net.fdb()) == 203
        text = net.run("fdb")
        assert "02:00:00:01:00:c7 dev emu_iavf0 master sw0 permanent\n" in text
        assert "02:00:00:00:00:a1 dev gen1 master sw0 used " in text
    assert until(lambda: len(net.fdb("sw0", "--dev", "emu_iavf0")) == 1)
    assert net.fdb("null0,null1,null2") == []
    assert "sw9: no such switch; there are sw0, null0,null1,null2" in refused(
        "fdb", "sw9", "--control", net.control
    )


# set


def test_mac_of_the_host_binds_the_guest(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    mac = "02:00:00:00:00:99"
    assert "(set by the host)" in run("set", "vf0", "mac", mac)
    come_back(first)
    assert first.mac == bytes.fromhex(mac.replace(":", ""))
    with pytest.raises(RequestRefused, match="ADMIN_QUEUE_ERROR"):
        first.settings.add_macs(MACS[0])
    passes(second, first)
    run("set", "vf0", "mac", "00:00:00:00:00:00")
    come_back(first)
    first.settings.add_macs(MACS[0])
    first.settings.remove_macs(MACS[0])
    run("set", "vf0", "mac", MACS[0].hex(":"))
    come_back(first)
    assert state()["mac"] == MACS[0].hex(":")


def test_trust_gates_promiscuous_mode(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    foreign = frame(first.mac, bytes.fromhex("020000000077"))
    run("set", "vf1", "trust", "off")
    come_back(second)
    second.settings.set_promiscuous(unicast=True, multicast=True)
    first.queues[0].send([foreign])
    assert len(passes(first, second)) == 1
    run("set", "vf1", "trust", "on")
    come_back(second)
    second.settings.set_promiscuous(unicast=True, multicast=True)
    first.queues[0].send([foreign])
    assert until(lambda: any(got.data == foreign for got in second.queues[0].receive()))


@pytest.mark.parametrize(("word", "up"), [("disable", False), ("enable", True), ("auto", True)])
def test_link_state_is_told(pair: tuple[VfDriver, VfDriver], word: str, up: bool) -> None:
    first, _ = pair
    before = "enable" if word == "auto" else "auto"
    run("set", "vf0", "link-state", before)
    run("set", "vf0", "link-state", word)
    assert until(lambda: first.link.up == up)
    assert state()["link"] == ("up" if up else "down")
    run("set", "vf0", "link-state", "auto")


def test_mtu_bounds_what_the_driver_may_ask_for(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    run("set", "vf0", "mtu", "1500")
    come_back(first)
    assert first.resources.max_mtu == 1526
    second.queues[0].send([frame(second.mac, first.mac, size) for size in (1527, 1526)])
    got: list[Frame] = []
    assert until(lambda: got.extend(first.queues[0].receive()) is None and bool(got))
    assert [len(one.data) for one in got] == [1526]
    run("set", "vf0", "mtu", "9702")
    come_back(first)
    assert first.resources.max_mtu == 9728


def test_max_rate_holds_frames_back_and_drops_none(pair: tuple[VfDriver, VfDriver]) -> None:
    """10 Mb/s for real time: a bound on both sides that a slow machine cannot miss."""
    first, second = pair
    run("set", "vf0", "max-rate", "10")
    size, count = 1000, 250
    data = frame(first.mac, second.mac, size)
    before = second.stats()
    began = time.monotonic()
    assert first.queues[0].send([data] * count) == count
    got = 0

    def arrived() -> bool:
        nonlocal got
        got += len(second.queues[0].receive())
        return got == count

    assert until(arrived)
    took_s = time.monotonic() - began
    after = second.stats()
    run("set", "vf0", "max-rate", "0")
    # What may be made up for is 20 ms, and the last frame is not paid for.
    assert took_s > 0.95 * ((count - 1) * size * 8 / 10e6 - 0.020)
    assert after.rx_discards == before.rx_discards


def test_port_vlan_is_the_devices_business(pair: tuple[VfDriver, VfDriver]) -> None:
    """Tagged on the wire between the two, as the one without a port VLAN sees it."""
    first, second = pair
    run("set", "vf0", "vlan", "5", "qos", "3", "proto", "802.1ad")
    come_back(first)
    assert not first.caps & (Cap.VLAN | Cap.VLAN_V2)
    assert first.resources.max_mtu == 9724
    plain = frame(first.mac, second.mac)
    assert [got.data for got in passes(first, second)] == [
        plain[:12] + bytes.fromhex("88a86005") + plain[12:]
    ]
    answer = frame(second.mac, first.mac)
    second.queues[0].send([answer, answer[:12] + bytes.fromhex("88a86005") + answer[12:]])
    got: list[Frame] = []
    assert until(lambda: got.extend(first.queues[0].receive()) is None and bool(got))
    assert [one.data for one in got] == [answer]
    run("set", "vf0", "vlan", "0")
    come_back(first)
    assert first.caps & Cap.VLAN_V2
    assert [got.data for got in passes(first, second)] == [plain]


def test_spoofed_frames_are_dropped_and_counted(
    bench: Bench, pair: tuple[VfDriver, VfDriver]
) -> None:
    first, second = pair
    run("set", "vf0", "spoofchk", "on")
    first.queues[0].send([frame(MACS[1], second.mac)])
    assert len(passes(first, second)) == 1
    counters = named(open_segment(f"{bench.process.pid}-emu_iavf0"))
    assert counters["tx-0.spoofed"] == 1
    run("set", "vf0", "spoofchk", "off")
    first.queues[0].send([frame(MACS[1], second.mac)])
    assert len(passes(first, second)) in (1, 2)


def test_reset_is_announced(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    run("reset", "vf0")
    come_back(first)
    passes(first, second)


# inject: each ends, and the VF works again


def test_injected_link_down_ends(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    run("inject", "vf0", "link-down", "--seconds", "0.5")
    assert until(lambda: not first.link.up)
    assert until(lambda: first.link.up)
    passes(first, second)


def test_injected_pf_reset_ends(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    run("inject", "vf0", "pf-reset", "--seconds", "0.2")
    come_back(first)
    passes(first, second)


def test_injected_vflr(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    run("inject", "vf0", "vflr")
    come_back(first, announced=False)
    passes(first, second)


def test_lost_requests(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    run("inject", "vf0", "adminq-drop", "2", "--recover", "0")
    for _ in range(2):
        with pytest.raises(NoAnswer):
            first.channel.request_raw(Op.GET_RSS_HENA_CAPS, b"", timeout_s=0.05)
    assert first.hena_caps()
    passes(first, second)


def test_driver_that_waits_for_ever_is_reset(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    run("inject", "vf0", "adminq-drop", "9", "--recover", "0.1")
    with pytest.raises(NoAnswer):
        first.channel.request_raw(Op.GET_RSS_HENA_CAPS, b"", timeout_s=0.02)
    come_back(first)
    assert state()["injected"] == []
    passes(first, second)


def test_refused_request(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    run("inject", "vf0", "adminq-error", "GET_RSS_HENA_CAPS", "ERR_NO_MEMORY")
    assert state()["injected"] == ["adminq-error GET_RSS_HENA_CAPS -18 1"]
    with pytest.raises(RequestRefused, match="ERR_NO_MEMORY"):
        first.hena_caps()
    assert first.hena_caps()
    passes(first, second)


def test_lost_interrupt_is_repeated(bench: Bench) -> None:
    with VfDriver(bench.paths[0]) as first, VfDriver(bench.paths[1]) as second:
        first.start(ring_len=64)
        second.start(ring_len=64, interrupts=True)
        run("inject", "vf1", "irq-drop", "1", "--recover", "0.3")
        second._write_dyn_ctl(0, regs.DynCtl.INTENA | regs.DynCtl.CLEARPBA)
        first.queues[0].send([frame(first.mac, second.mac)])
        assert until(lambda: state("vf1")["injected"] == [])
        began = time.monotonic()
        assert second.wait([0], DEADLINE_S) == [0]
        assert time.monotonic() - began < DEADLINE_S / 2
        assert len(second.queues[0].receive()) == 1


def test_corrupted_frames(pair: tuple[VfDriver, VfDriver]) -> None:
    first, second = pair
    run("inject", "vf1", "rx-corrupt", "1")
    good = frame(first.mac, second.mac)
    (spoilt,) = passes(first, second)
    assert spoilt.data == good[:-1] + bytes([good[-1] ^ 1])
    assert [got.data for got in passes(first, second)] == [good]


@pytest.mark.parametrize("cure", ["time", "reset"])
def test_hanging_queue(pair: tuple[VfDriver, VfDriver], cure: str) -> None:
    first, second = pair
    run("inject", "vf0", "tx-hang", "--seconds", "0.5" if cure == "time" else "3600")
    first.queues[0].send([frame(first.mac, second.mac)])
    if cure == "reset":
        assert not first.queues[0].tx.idle
        first.reset()
    else:
        assert until(lambda: first.queues[0].tx.idle)
        assert len(second.queues[0].receive()) == 1
    passes(first, second)
    assert state()["injected"] == []


# Where, and help


def test_default_socket_is_in_the_runtime_directory(bench: Bench, runtime: Path) -> None:
    assert (runtime / f"{bench.process.pid}.control").is_socket()


def test_socket_where_the_user_says_and_nowhere(tmp_path: Path, runtime: Path) -> None:
    vdev = f"--vdev=emu_scratch0,path={tmp_path / 'dev.sock'}"
    path = tmp_path / "here"
    with Running(vdev, "--control", str(path)) as process:
        assert path.is_socket()
        assert run("show", "--control", str(path)) == "nothing is running\n"
        process.end(signal.SIGTERM)
    assert not path.exists()
    with Running(vdev, "--control", "none") as process:
        assert not (runtime / f"{process.pid}.control").exists()
        process.end(signal.SIGTERM)


def test_runtime_directory_that_cannot_be_used_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    with Running(f"--vdev=emu_scratch0,path={tmp_path / 'dev.sock'}") as process:
        code, _, err = process.end(signal.SIGTERM)
    assert (code, "WARNING no control socket: " in err) == (0, True)


def test_help_names_every_word() -> None:
    text = run("set", "--help")
    assert all(f"  {word.name} " in text for word in words(Set))
    text = run("inject", "vf0", "--help")
    assert all(what in text for what in injections())


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_verbs_words_and_injections(shell: str) -> None:
    script = run("completion", shell)
    for name in ("inject", "--log-level", *injections()):
        assert name in script
    if shell != "tcsh":
        assert all(word.name in script for word in words(Set))


def completed(*typed: str) -> set[str]:
    """What bash offers for the last of these words."""
    line = " ".join(typed)
    script = f"""
source /dev/stdin <<'EOF'
{run("completion", "bash")}
EOF
COMP_LINE={line!r} COMP_POINT={len(line)} COMP_WORDS=({line}{' ""' if not typed[-1] else ""})
COMP_CWORD={len(typed) - 1}
_shtab_emuiavf
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, timeout=30,
        env={**os.environ},
    )  # fmt: skip
    return set(done.stdout.split())


def test_bash_completes() -> None:
    assert {"set", "show", "switches"} <= completed("emuiavf", "s")
    assert {"--dev"} == completed("emuiavf", "fdb", "--d")
    assert {"tx-hang"} == completed("emuiavf", "inject", "vf0", "tx")
    assert {"mac", "mtu", "min-rate", "max-rate"} == completed("emuiavf", "set", "vf0", "m")
    assert {"auto"} == completed("emuiavf", "set", "vf0", "link-state", "a")
    assert {"on", "off"} == completed("emuiavf", "set", "vf0", "mtu", "1500", "trust", "o")
