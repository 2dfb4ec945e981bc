"""A dpdk-testpmd inside a guest, at the command's end of a FIFO.

It has no terminal there, so what it prints, but for its prompt, is only had when it ends.
"""

import shlex
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from bench.dpdk import Dpdk
from tests.vm.harness.guest import Guest

PROGRAM = "dpdk-testpmd"
TIMEOUT_S = 60
IN, OUT = "/tmp/testpmd.in", "/tmp/testpmd.out"
PROMPT = "testpmd> "


def needed(dpdk: Dpdk) -> list[str]:
    """What an initramfs has to have for it, as arguments of tests.vm.harness.initramfs."""
    words = ["--root", str(dpdk.root)]
    for path in dpdk.drivers()[1::2]:
        words += ["--add-root", path.removeprefix(str(dpdk.root))]
    return words


class GuestTestpmd:
    """Runs in its block, on these PCI functions; a call is a command, and returns after it."""

    def __init__(self, vm: Guest, dpdk: Dpdk, functions: Sequence[str]) -> None:
        self._vm = vm
        words = [PROGRAM, "-l", "0,1", "-m", "64", "--no-telemetry"]
        for name in functions:
            words += ["-a", name]
        words += [word.removeprefix(str(dpdk.root)) for word in dpdk.drivers()]
        words += ["--", "-i", "--total-num-mbufs=8192"]
        self._command = shlex.join(words)

    def __enter__(self) -> Self:
        self._vm.check(
            f"rm -f {IN} {OUT}; mkfifo {IN}; (sleep 1000 > {IN} & echo $! > {IN}.pid); "
            f"({self._command} < {IN} > {OUT} 2>&1 & echo $! > {OUT}.pid)"
        )
        self._wait(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind:
            print(self._vm.run(f"cat {OUT}; dmesg | tail")[1])
        self._vm.run(f"kill -9 $(cat {OUT}.pid) $(cat {IN}.pid)")
        self._vm.wait(f"! kill -0 $(cat {OUT}.pid)")

    def _prompts(self) -> int:
        return self.said().count(PROMPT)

    def _wait(self, count: int) -> None:
        self._vm.wait(
            f"[ $(grep -o '{PROMPT}' {OUT} | wc -l) -ge {count} ] || ! kill -0 $(cat {OUT}.pid)",
            TIMEOUT_S,
        )
        assert self._prompts() >= count, self.said()

    def said(self) -> str:
        return self._vm.check(f"cat {OUT}")

    def __call__(self, command: str) -> None:
        before = self._prompts()
        self._vm.check(f"echo {shlex.quote(command)} > {IN}")
        self._wait(before + 1)

    def quit(self) -> str:
        """Leave as a user would; returns all that it has printed."""
        self._vm.check(f"echo quit > {IN}")
        self._vm.wait(f"! kill -0 $(cat {OUT}.pid)", TIMEOUT_S)
        return self.said()
