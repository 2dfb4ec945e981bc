"""Unmodified Open vSwitch with its DPDK datapath: our devices are ports of its bridge.

DPDK 22.11 has no --no-huge beside the --in-memory that Open vSwitch asks for: hugepages it is.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from bench.dpdk import Dpdk
from tests.dpdk.conftest import ROOT, Bench
from tests.dpdk.tester import Tester, mixed_frames
from tests.vm.harness.backend import wait_until

TIMEOUT_S = 60
LEFT, RIGHT = "02:00:00:00:00:01", "02:00:00:00:00:02"


class Ovs:
    """A database, and a switch on two devices under `emuiavf exec`."""

    def __init__(self, packages: Dpdk, bench: Bench, stack: ExitStack) -> None:
        self.packages = packages
        self.folder = bench.folder
        self.share = packages.root / "usr/share/openvswitch"
        names = ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR")
        self.environment = {
            **os.environ,
            **dict.fromkeys(names, str(self.folder)),
            "OVS_PKGDATADIR": str(self.share),
        }
        database, remote = self.folder / "conf.db", f"unix:{self.folder}/db.sock"
        self.remote = remote
        self._run("usr/bin/ovsdb-tool", "create", database, self.share / "vswitch.ovsschema")
        server = packages.command("usr/sbin/ovsdb-server")
        self._start(stack, [*server, str(database), f"--remote=p{remote}"])
        wait_until((self.folder / "db.sock").exists, TIMEOUT_S, "the database")
        self.vsctl("--no-wait", "init")
        extra = " ".join(["--no-telemetry", f"--file-prefix=ovs{os.getpid()}", *packages.drivers()])
        core = f"{1 << min(os.sched_getaffinity(0)):#x}"
        settings = {
            "dpdk-init": "true",
            "dpdk-extra": f'"{extra}"',
            "dpdk-socket-mem": "512",
            "dpdk-lcore-mask": core,
            "pmd-cpu-mask": core,
        }
        words = [f"other_config:{name}={value}" for name, value in settings.items()]
        self.vsctl("--no-wait", "set", "Open_vSwitch", ".", *words)
        switch = [sys.executable, "-m", "emuiavf", "exec"]
        for number in (0, 2):
            switch += ["--device", bench.device(number)]
        program = packages.command("usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk")
        self._start(stack, [*switch, "--", *program, remote])

    def vsctl(self, *words: str) -> str:
        return self._run("usr/bin/ovs-vsctl", f"--db={self.remote}", "--timeout=30", *words)

    def said(self) -> str:
        return (self.folder / "ovs.log").read_text()

    def _run(self, program: str, *words: object) -> str:
        done = subprocess.run(
            [*self.packages.command(program), *map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr + self.said()
        return done.stdout

    def _start(self, stack: ExitStack, command: list[str]) -> None:
        log = stack.enter_context((self.folder / "ovs.log").open("ab"))
        process = subprocess.Popen(
            command, env=self.environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
        stack.callback(process.wait, TIMEOUT_S)
        stack.callback(process.terminate)


@pytest.fixture
def wires(
    ovs_packages: Dpdk, hugepages: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Tester, Tester]]:
    """The far ends of the switch's two ports."""
    folder: Path = tmp_path_factory.mktemp("ovs")
    with ExitStack() as stack:
        bench = Bench(ovs_packages, folder, stack)
        pairs = ["--connect", "emu_iavf0,emu_iavf1", "--connect", "emu_iavf2,emu_iavf3"]
        bench.serve(*pairs, devices=4)
        ovs = Ovs(ovs_packages, bench, stack)
        ovs.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
        for port, address in (("p0", "0000:3f:00.0"), ("p1", "0000:3f:02.0")):
            ovs.vsctl(
                *("add-port", "br0", port, "--", "set", "Interface", port, "type=dpdk"),
                f"options:dpdk-devargs={address}",
            )
            assert ovs.vsctl("get", "Interface", port, "error").strip() == "[]", ovs.said()
            ovs.vsctl("wait-until", "Interface", port, "link_state=up")
        with Tester(folder / "vf1.sock") as left, Tester(folder / "vf3.sock") as right:
            yield left, right


def test_a_ping_passes_the_switch(wires: tuple[Tester, Tester]) -> None:
    left, right = wires
    for number in range(50):
        echo = ICMP(type=8, id=1, seq=number) / Raw(bytes(range(56)))
        asked = Ether(src=LEFT, dst=RIGHT) / IP(src="10.0.0.1", dst="10.0.0.2") / echo
        left.send([bytes(asked)])
        found = Ether(right.receive(1)[0].data)
        assert bytes(found) == bytes(asked)
        answer = Ether(src=RIGHT, dst=LEFT) / IP(src="10.0.0.2", dst="10.0.0.1") / found[ICMP]
        answer[ICMP].type = 0
        del answer[ICMP].chksum
        right.send([bytes(answer)])
        assert left.receive(1)[0].data == bytes(answer)


def test_frames_of_all_lengths_pass_the_switch(wires: tuple[Tester, Tester]) -> None:
    left, right = wires
    frames = mixed_frames(500)
    for at in range(0, len(frames), 50):
        left.send(frames[at : at + 50])
        assert [frame.data for frame in right.receive(50)] == frames[at : at + 50]
