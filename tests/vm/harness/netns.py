"""A network namespace of the host's side, with all that a test starts in it.  Needs root."""

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

_numbers = itertools.count()


def unavailable() -> str:
    """Why this machine has no namespaces with TAPs for us; empty when it has."""
    if os.geteuid() != 0:
        return "needs root for a network namespace with a TAP"
    if not shutil.which("ip"):
        return "needs the ip program (iproute2)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    Namespace.remove_stale()
    try:
        with Namespace() as probe:
            probe.run("ip", "tuntap", "add", "dev", "probe0", "mode", "tap")
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot make a network namespace with a TAP: {error}"
    return ""


class Namespace:
    """Created on entry; on exit every process in it is ended and it is removed."""

    def __init__(self) -> None:
        self.name = f"emuiavf-{os.getpid()}-{next(_numbers)}"

    def command(self, *words: str | Path) -> list[str]:
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def run(self, *words: str | Path, timeout_s: float = 60, check: bool = True) -> str:
        """Run a program inside; returns its output."""
        done = subprocess.run(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        if check and done.returncode:
            raise subprocess.SubprocessError(f"{' '.join(map(str, words))}: {done.stdout}")
        return done.stdout

    def popen(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(*words), text=True, **options)

    def wait_link(self, ifname: str, timeout_s: float = 10) -> None:
        """Until an interface exists."""
        end = time.monotonic() + timeout_s
        while subprocess.run(
            self.command("ip", "link", "show", ifname), capture_output=True
        ).returncode:
            if time.monotonic() > end:
                raise TimeoutError(f"no interface {ifname} within {timeout_s:g} s")
            time.sleep(0.02)

    def address(self, ifname: str, *addresses: str, mtu: int = 1500) -> None:
        """Bring an interface up with these addresses."""
        self.wait_link(ifname)
        for address in addresses:
            extra = ["nodad"] if ":" in address else []
            self.run("ip", "addr", "replace", address, "dev", ifname, *extra)
        self.run("ip", "link", "set", ifname, "mtu", str(mtu), "up")

    def pids(self) -> list[int]:
        done = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False
        )
        return [int(word) for word in done.stdout.split()]

    @staticmethod
    def remove_stale() -> None:
        """Remove what test runs left that were killed."""
        for name in Path("/run/netns").glob("emuiavf-*-*"):
            if not Path("/proc", name.name.split("-")[1]).exists():
                subprocess.run(["ip", "netns", "del", name.name], check=False, capture_output=True)

    def __enter__(self) -> Self:
        subprocess.run(["ip", "netns", "add", self.name], check=True, capture_output=True)
        try:
            # No router solicitations or duplicate address detection between the frames we count.
            for setting in ("all", "default"):
                for key, value in (("accept_dad", 0), ("router_solicitations", 0)):
                    path = f"/proc/sys/net/ipv6/conf/{setting}/{key}"
                    self.run("sh", "-c", f"echo {value} > {path}")
            self.run("ip", "link", "set", "lo", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for pid in self.pids():  # all of them were started by us, in this very namespace
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)
