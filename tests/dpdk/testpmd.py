"""An unmodified dpdk-testpmd under `emuiavf exec`, driven over a terminal."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.dpdk import Dpdk

ROOT = Path(__file__).resolve().parents[2]
PROMPT = b"testpmd> "
TIMEOUT_S = 60


class Testpmd:
    """One process with one port or several; ready for commands in its block."""

    __test__ = False  # no class of tests

    def __init__(
        self,
        dpdk: Dpdk,
        devices: Sequence[str],
        eal: Sequence[str] = (),
        options: Sequence[str] = (),
        core: int = 0,
        memory: Sequence[str] = ("--no-huge", "-m", "128"),
        before: Sequence[str] = (),
        devargs: str = "",
    ) -> None:
        """`devices` are those of `emuiavf exec`; main and forwarding thread share a core.

        `before` is a command that all of it is an argument of; `devargs` are for net_iavf.
        """
        addresses = [device.partition("addr=")[2] for device in devices]
        self.command = [*before, sys.executable, "-m", "emuiavf", "exec"]
        for device in devices:
            self.command += ["--device", device]
        self.command += ["--", *dpdk.command("usr/bin/dpdk-testpmd"), "--lcores", f"(0,1)@{core}"]
        self.command += [*memory, "--no-telemetry", "--file-prefix", f"emuiavf{os.getpid()}-{core}"]
        for address in addresses:
            self.command += ["-a", ",".join(filter(None, [address, devargs]))]
        self.command += [*dpdk.drivers(), *eal, "--", "-i", "--total-num-mbufs=16384", *options]
        self.said = b""
        self._terminal = -1
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of `emuiavf exec`."""
        assert self.process is not None
        return self.process.pid

    def __enter__(self) -> Self:
        self._terminal, theirs = pty.openpty()
        # What is written to it is not to come back.
        settings = termios.tcgetattr(theirs)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        self.process = subprocess.Popen(
            self.command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, process_group=0
        )
        os.close(theirs)
        try:
            self._await(PROMPT)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        if kind:
            sys.stderr.write(self.said[-20000:].decode(errors="replace"))

    def __call__(self, command: str) -> str:
        """What a command printed."""
        at = len(self.said)
        os.write(self._terminal, command.encode() + b"\n")
        self._await(PROMPT, at)
        return self.said[at:].decode(errors="replace").replace("\r", "")

    def wait_for(self, text: str, since: int = 0) -> None:
        """Until testpmd has said it, unasked."""
        self._await(text.encode(), since)

    def until(self, command: str, pattern: str) -> str:
        """Repeat a command until it prints what the pattern finds; returns that print."""
        end = time.monotonic() + TIMEOUT_S
        while not re.search(pattern, text := self(command)):
            assert time.monotonic() < end, f"{command}: no {pattern!r} in\n{text}"
        return text

    def counters(self, port: int = 0) -> dict[str, int]:
        """`show port stats`: RX-packets and so on."""
        text = self(f"show port stats {port}")
        return {name: int(value) for name, value in re.findall(r"([RT]X-\w+): +(\d+)", text)}

    def counters_above(self, name: str, least: int, port: int = 0) -> dict[str, int]:
        """The counters, once this one has reached a value."""
        end = time.monotonic() + TIMEOUT_S
        while (found := self.counters(port))[name] < least:
            assert time.monotonic() < end, f"{name} is {found[name]}, not {least}"
        return found

    def final_counters(self, port: int = 0) -> dict[str, int]:
        """The counters after forwarding, and after the ports: until then the device goes on with
        what testpmd has left in its Tx rings."""
        self("stop")
        self("port stop all")
        return self.counters(port)

    def kill(self) -> None:
        """SIGKILL for the program itself; `emuiavf exec` ends likewise."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in children.split():
            os.kill(int(pid), signal.SIGKILL)
        self.process.wait(TIMEOUT_S)

    def quit(self) -> int:
        """Leave as a user would; the exit status."""
        assert self.process is not None
        os.write(self._terminal, b"quit\n")
        self._drain()
        return self.process.wait(TIMEOUT_S)

    def _await(self, text: bytes, since: int = 0) -> None:
        end = time.monotonic() + TIMEOUT_S
        while text not in self.said[since:]:
            assert self._read(end - time.monotonic()), f"no {text!r} from testpmd:\n{self._tail()}"

    def _read(self, timeout_s: float) -> bool:
        if timeout_s <= 0 or not select.select([self._terminal], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # the other end is closed
            return False
        self.said += data
        return bool(data)

    def _drain(self) -> None:
        end = time.monotonic() + TIMEOUT_S
        while self._read(end - time.monotonic()):
            pass

    def _tail(self) -> str:
        return self.said[-4000:].decode(errors="replace")

    def _end(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            # The whole group: `emuiavf exec` takes the signal for its own end only.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._terminal)
