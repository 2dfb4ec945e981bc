"""One `dpdk-testpmd` under control: its prompt, its rates, its end."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Self

from bench.backend import die_with_parent
from bench.dpdk import Testpmd

START_S = 30.0
ANSWER_S = 10.0
STOP_S = 5.0
MEMORY_MB = 128
EAL = (
    "--in-memory",
    "--single-file-segments",
    "--no-telemetry",
    "--force-max-simd-bitwidth=512",
    "-m",
    str(MEMORY_MB),
)
APPLICATION = (
    "--interactive",
    "--total-num-mbufs=16384",
    "--burst=32",
    "--no-lsc-interrupt",
    # The other side comes later.
    "--disable-link-check",
)
LINK_S = 10.0
_PORT = re.compile(r"NIC statistics for port (\d+)")
_RATE = re.compile(r"(Rx|Tx)-pps:\s+(\d+)")
_LINK = re.compile(r"^\d+ .* (up|down) ", re.MULTILINE)
_END_OF_STATS = r"Tx-bps:\s+\d+\s+#+\s*\n"


class Failed(Exception):
    """A program ended, or did not answer: what it said last."""


class Rates(NamedTuple):
    """Frames per second of one port since it was last asked."""

    rx: int
    tx: int


class Process:
    """A testpmd on one CPU, from its start to `close`.  Failed when it does not come up.

    `vdevs` are virtual devices, `before` is a command that testpmd is an argument of, `options`
    are further ones of EAL, `ports` says how many there will be.
    """

    def __init__(
        self,
        testpmd: Testpmd,
        cpu: int,
        *,
        ports: int,
        vdevs: Sequence[str] = (),
        before: Sequence[str] = (),
        options: Sequence[str] = ("--no-pci",),
        huge: bool = True,
        ring_len: int = 256,
        env: Mapping[str, str] | None = None,
    ) -> None:
        command = [*before, *testpmd.command, *testpmd.options, "--lcores", f"(0,1)@{cpu}"]
        command += [*EAL, *options, *(f"--vdev={vdev}" for vdev in vdevs)]
        command += [] if huge else ["--no-huge"]
        command += ["--", *APPLICATION, f"--rxd={ring_len}", f"--txd={ring_len}"]
        self.ports = ports
        # Through a terminal it writes line by line.
        self._terminal, theirs = pty.openpty()
        self._said = ""
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=theirs,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                preexec_fn=die_with_parent,
                # It may be the child of a command that goes before it.
                start_new_session=True,
            )
        except BaseException:
            os.close(self._terminal)
            raise
        finally:
            os.close(theirs)
        try:
            self._wait(re.compile(r"testpmd> "), START_S)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: int) -> None:
        """To the program and to what goes before it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def command(self, text: str, answer: str) -> str:
        """Type a line and wait for what it answers (a pattern); returns what was said till then."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(text.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("has ended") from None
        return self._wait(re.compile(answer), ANSWER_S)

    def forward(self, mode: str, size: int, bursts: int = 0) -> None:
        """Start forwarding; `bursts` of 32 frames of `size` bytes are sent first."""
        self.command(f"set fwd {mode}", rf"Set {mode} packet forwarding")
        self.command(f"set txpkts {size}", r"set txpkts [^\n]*\n|testpmd> ")
        self.command(f"start tx_first {bursts}" if bursts else "start", r"packets/burst=\d+")

    def halt(self) -> None:
        """Stop forwarding."""
        self.command("stop", r"Accumulated forward statistics[^$]*\nDone\.")

    def wait_link(self) -> None:
        """Until every port is connected; Failed when one is not after LINK_S."""
        deadline = time.monotonic() + LINK_S
        while True:
            said = self.command("show port summary all", r"Link\s*\n(\d[^\n]*\n)+(?=testpmd)")
            links = _LINK.findall(said)
            if links and set(links) == {"up"}:
                return
            if time.monotonic() > deadline:
                raise self._failed(f"has no link: {', '.join(links)}")
            time.sleep(0.05)

    def rates(self) -> list[Rates]:
        """Per port, since the last call; the program's own clock."""
        said = self.command("show port stats all", rf"(?s)(?:.*?{_END_OF_STATS}){{{self.ports}}}")
        found: list[Rates] = []
        for part in _PORT.split(said)[2::2]:
            pps = {kind: int(value) for kind, value in _RATE.findall(part)}
            found.append(Rates(pps["Rx"], pps["Tx"]))
        return found

    def close(self) -> None:
        """End it, whatever it is doing."""
        # It may be stopped, and the other sides of its devices too: there is nothing to ask it.
        self.signal(signal.SIGKILL)
        self.process.wait(STOP_S)
        if self.process.stdin is not None:
            self.process.stdin.close()
        os.close(self._terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _wait(self, wanted: re.Pattern[str], limit_s: float) -> str:
        """What was said up to the first match of `wanted`."""
        deadline = time.monotonic() + limit_s
        while (match := wanted.search(self._said)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._failed(f"did not say {wanted.pattern!r} within {limit_s:.0f} s")
            ready, _, _ = select.select([self._terminal], [], [], left)
            if ready:
                try:
                    data = os.read(self._terminal, 1 << 16)
                except OSError:
                    raise self._failed("has ended") from None
                self._said += data.decode(errors="replace").replace("\r", "")
        said, self._said = self._said[: match.end()], self._said[match.end() :]
        return said

    def _failed(self, how: str) -> Failed:
        told = [line for line in self._said.splitlines() if line.strip()]
        complaints = [line for line in told if re.search("rror|ail|annot|No probed", line)]
        return Failed(f"testpmd {how}: {'; '.join((complaints or told)[-2:]) or 'no word'}")
