"""Boot a guest from a fetched cache and run commands in it.

    with Guest(cache, "6.12", ["-device", "..."]) as vm:
        code, text = vm.run("ip -br link")
        vm.check("modprobe iavf")            # raises when the code is not 0

As a program (`python -m tests.vm.harness.guest CACHE 6.12 --qemu "-device e1000e" -- "lspci -nn"`)
it boots, runs the commands given, prints their output and powers off.

The kernel's messages go to a file (serial port 0); commands and their output travel over serial
port 1, a socket pair whose other end QEMU inherits; QMP has a third.  No path is used.
"""

import argparse
import contextlib
import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FAST = "mitigations=off nokaslr cryptomgr.notests tsc=reliable"


def kernel_arguments(load: Sequence[str] = (), append: str = "", *, reboot: bool = False) -> str:
    """The command line of a kernel whose initramfs is ours."""
    panic = "panic=0" if reboot else "panic=-1"
    return f"console=ttyS0 vm.port=ttyS1 vm.load={','.join(load)} {panic} {FAST} {append}"


class GuestError(Exception):
    """The guest or its QEMU did not do what was asked."""


class Monitor:
    """QMP over an inherited socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""
        self.events: list[dict[str, Any]] = []

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise GuestError("QMP: no answer") from None
            if not data:
                raise GuestError("QMP: closed")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            self.events.append(message)
        return message

    def negotiate(self, timeout_s: float) -> None:
        self._message(time.monotonic() + timeout_s)
        self.execute("qmp_capabilities")

    def execute(self, command: str, timeout_s: float = 30, **arguments: object) -> Any:
        """One command; returns what it returned, raises GuestError when it was refused."""
        request = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + timeout_s
        while True:
            message = self._message(deadline)
            if "error" in message:
                raise GuestError(f"QMP {command}: {message['error'].get('desc')}")
            if "return" in message:
                return message["return"]

    def wait_event(self, name: str, timeout_s: float = 30) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            for at, event in enumerate(self.events):
                if event["event"] == name:
                    return self.events.pop(at)
            self._message(deadline)

    def close(self) -> None:
        self._socket.close()


class Guest:
    """One QEMU with a Linux guest; `qemu` are arguments on top of the machine's own.

    `firmware` is started in place of the kernel, which it has to load from somewhere, with
    kernel_arguments() for its command line.  With `uefi`, a folder that has OVMF, it is a program
    for UEFI.
    """

    def __init__(
        self,
        cache: Path,
        kernel: str = "6.12",
        qemu: Sequence[str] = (),
        *,
        machine: str = "q35",
        memory: int = 512,
        cpus: int = 2,
        accel: str = "tcg,thread=multi",
        cpu: str = "max",
        append: str = "",
        load: Sequence[str] = (),
        log: Path | None = None,
        boot_timeout: float = 180,
        netns: str | None = None,
        shared: bool = True,
        reboot: bool = False,
        firmware: Path | None = None,
        uefi: Path | None = None,
        initramfs: Path | None = None,
    ) -> None:
        self.log = log
        self._serial = 0
        self._buffer = bytearray()
        self._socket, theirs = socket.socketpair()
        monitor, qmp = socket.socketpair()
        self.monitor = Monitor(monitor)
        command = ["ip", "netns", "exec", netns] if netns else []
        command += [str(cache / "bin" / "qemu-system-x86_64"), "-nodefaults", "-no-user-config"]
        command += ["-display", "none", "-run-with", "exit-with-parent=on"]
        command += ["-accel", accel, "-cpu", cpu, "-smp", str(cpus), "-m", f"{memory}M"]
        if not reboot:
            command += ["-no-reboot"]
        if firmware:
            machine += ",graphics=off"  # the BIOS's console is serial port 0
        if shared:
            # vfio-user servers reach guest memory only through a shared file.
            command += ["-object", f"memory-backend-memfd,id=mem,size={memory}M,share=on"]
            machine += ",memory-backend=mem"
        command += ["-M", machine, "-serial", f"file:{log or '/dev/null'}"]
        command += ["-chardev", f"socket,id=command,fd={theirs.fileno()}"]
        command += ["-serial", "chardev:command"]
        command += ["-chardev", f"socket,id=qmp,fd={qmp.fileno()}", "-qmp", "chardev:qmp"]
        if uefi:
            flash = "if=pflash,format=raw,file="
            command += ["-drive", f"{flash}{uefi / 'OVMF_CODE_4M.fd'},readonly=on"]
            command += ["-drive", f"{flash}{uefi / 'OVMF_VARS_4M.fd'},snapshot=on"]
        if firmware:
            command += ["-kernel", str(firmware)]
        else:
            command += ["-kernel", str(cache / "kernels" / kernel / "vmlinux")]
            command += ["-initrd", str(initramfs or cache / "initramfs" / f"{kernel}.cpio")]
            command += ["-append", kernel_arguments(load, append, reboot=reboot)]
        command += list(qemu)
        self.command = command
        began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno(), qmp.fileno()],
        )
        theirs.close()
        qmp.close()
        try:
            self.wait_ready(boot_timeout)
            self.monitor.negotiate(10)
        except BaseException:
            self.process.kill()
            self.close()
            raise
        self.boot_seconds = time.monotonic() - began

    def wait_ready(self, timeout_s: float = 180) -> None:
        """Until the guest's shell has announced itself, at boot or after a reset."""
        _, self.ready = self._until(b"VM-READY ", timeout_s)

    def _said(self) -> str:
        """What QEMU printed; it must have ended."""
        stdout = self.process.stdout
        if stdout is None or stdout.closed:
            return ""
        return stdout.read().decode(errors="replace")

    def _until(self, mark: bytes, timeout_s: float) -> tuple[str, str]:
        """Read until a line has the mark; returns what came before it and the line's rest."""
        end = time.monotonic() + timeout_s
        start = 0
        while True:
            at = self._buffer.find(mark, start)
            stop = self._buffer.find(b"\n", at) if at >= 0 else -1
            if stop >= 0:
                before = bytes(self._buffer[:at])
                rest = bytes(self._buffer[at + len(mark) : stop])
                del self._buffer[: stop + 1]
                return before.decode(errors="replace"), rest.decode(errors="replace")
            start = at if at >= 0 else max(0, len(self._buffer) - len(mark))
            left = end - time.monotonic()
            tail = bytes(self._buffer[-2000:])
            if left <= 0:
                raise GuestError(f"no answer in {timeout_s:g} s; so far {tail!r}")
            self._socket.settimeout(min(left, 0.5))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                if self.process.poll() is None:
                    continue
                data = b""
            if not data:
                try:
                    self.process.wait(5)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                raise GuestError(f"QEMU ended with {self.process.wait()}: {self._said()[:1500]}")
            self._buffer += data.replace(b"\r", b"")

    def run(self, command: str, timeout_s: float = 60) -> tuple[int, str]:
        """Run a shell command in the guest; returns its exit code and output."""
        self.start(command)
        return self.finish(timeout_s)

    def start(self, command: str) -> None:
        """Begin a command, for work to be done here meanwhile; finish() ends it."""
        self._serial += 1
        # Quoted, so that an unfinished command cannot swallow the mark, which has
        # a line of its own since a syntax error drops the rest of its line.
        text = f'eval {shlex.quote(command)} 2>&1 </dev/null\necho "@@{self._serial}@$?@"\n'
        if max(map(len, text.split("\n"))) > 4000:
            raise GuestError("a line of the command is longer than the guest's terminal takes")
        self._socket.settimeout(30)
        self._socket.sendall(text.encode())

    def finish(self, timeout_s: float = 60) -> tuple[int, str]:
        text, rest = self._until(f"@@{self._serial}@".encode(), timeout_s)
        return int(rest.rstrip("@")), text

    def check(self, command: str, timeout_s: float = 60) -> str:
        """Run a command that must succeed; returns its output."""
        code, text = self.run(command, timeout_s)
        if code:
            raise GuestError(f"guest: {command}: exit code {code}\n{text}")
        return text

    def wait(self, command: str, timeout_s: float = 30) -> str:
        """Until a command of the guest succeeds; returns its output."""
        end = time.monotonic() + timeout_s
        while True:
            code, text = self.run(command, timeout_s + 30)
            if not code:
                return text
            if time.monotonic() > end:
                raise GuestError(f"guest: {command}: not within {timeout_s:g} s\n{text}")
            time.sleep(0.02)

    def close(self, timeout_s: float = 20) -> str:
        """Power off, or kill after the time given; returns QEMU's own output."""
        if self.process.poll() is None:
            try:
                self._socket.settimeout(1)
                self._socket.sendall(b"\npoweroff -f\n")
                self.process.wait(timeout_s)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
        self.process.wait()
        text = self._said()
        if self.process.stdout:
            self.process.stdout.close()
        self._socket.close()
        self.monitor.close()
        return text

    def kill(self) -> None:
        """SIGKILL in whatever it does, as an operator's last resort."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind:
            self.process.kill()
        text = self.close()
        if text:
            sys.stderr.write(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cache", type=Path, help="folder that was fetched into")
    parser.add_argument("kernel", help="kernel label; its initramfs must have been made")
    parser.usage = "%(prog)s CACHE KERNEL [options] [-- COMMAND ...]"
    parser.add_argument("--qemu", action="append", default=[], metavar="ARGS")
    parser.add_argument("--load", default="", help="kernel modules to load at boot, with commas")
    parser.add_argument("--append", default="", help="more kernel command line")
    parser.add_argument("--memory", type=int, default=512, help="MiB (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--log", type=Path, help="file for the kernel's messages")
    parser.add_argument("--netns", help="network namespace to run QEMU in")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a command may take")
    words = sys.argv[1:]
    commands = words[words.index("--") + 1 :] if "--" in words else []
    args = parser.parse_args(words[: words.index("--")] if "--" in words else words)
    status = 0
    with contextlib.ExitStack() as stack:
        vm = stack.enter_context(
            Guest(
                args.cache.resolve(),
                args.kernel,
                [word for item in args.qemu for word in shlex.split(item)],
                memory=args.memory,
                cpus=args.cpus,
                append=args.append,
                load=[item for item in args.load.split(",") if item],
                log=args.log,
                netns=args.netns,
            )
        )
        print(f"# ready after {vm.boot_seconds:.2f} s: {vm.ready}", file=sys.stderr)
        for command in commands:
            code, text = vm.run(command, args.timeout)
            print(text, end="", flush=True)
            print(f"# exit code {code}: {command}", file=sys.stderr)
            status = status or code
    return status


if __name__ == "__main__":
    sys.exit(main())
