"""Drive PCI devices of a real QEMU without a guest.

QEMU runs with the qtest accelerator: all devices are there, no CPU executes, and the test does
what firmware and driver would do.  A QEMU with vfio-user-pci is up in 0.1 s.

    with QTest(cache, vfio_user_device(path, addr="2.0")) as q:
        device = q.pci(2)
        assert device.ids() == (0x8086, 0x1889)
        bar0 = device.map_bar(0, 0xE0000000)
        device.enable()
        q.read32(bar0 + 0x8800)

An MSI-X message is a memory write, so its address may be in guest RAM: program the vector with a
RAM address and wait for the data to appear there.
"""

import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.vm.harness.guest import Monitor

LETTERS = {1: "b", 2: "w", 4: "l", 8: "q"}
CAP_PCIE, CAP_MSIX = 0x10, 0x11


class QTestError(Exception):
    """QEMU refused, ended or did not answer."""


class QTest:
    def __init__(
        self,
        cache: Path,
        qemu: Sequence[str] = (),
        *,
        machine: str = "q35",
        memory: int = 64,
        timeout_s: float = 30,
        shared: bool = True,
    ) -> None:
        self._socket, theirs = socket.socketpair()
        monitor, qmp = socket.socketpair()
        self.monitor = Monitor(monitor)
        command = [str(cache / "bin" / "qemu-system-x86_64"), "-nodefaults", "-no-user-config"]
        command += ["-display", "none", "-run-with", "exit-with-parent=on", "-accel", "qtest"]
        command += ["-m", f"{memory}M"]
        if shared:
            command += ["-object", f"memory-backend-memfd,id=mem,size={memory}M,share=on"]
            machine += ",memory-backend=mem"
        command += ["-machine", machine]
        command += ["-chardev", f"socket,id=qtest,fd={theirs.fileno()}"]
        command += ["-qtest", "chardev:qtest", "-qtest-log", "none"]
        command += ["-chardev", f"socket,id=qmp,fd={qmp.fileno()}", "-qmp", "chardev:qmp"]
        self.process = subprocess.Popen(
            command + list(qemu),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno(), qmp.fileno()],
        )
        theirs.close()
        qmp.close()
        self._buffer = b""
        self._timeout_s = timeout_s
        try:
            self.command("endianness")
            self.monitor.negotiate(timeout_s)
        except BaseException:
            self.close()
            raise

    def command(self, text: str) -> list[str]:
        """Send one command of the qtest protocol; returns the words after OK."""
        self._socket.sendall(text.encode() + b"\n")
        while True:
            words = self._line().split()
            if words[0] == "OK":
                return words[1:]
            if words[0] != "IRQ":
                raise QTestError(f"{text}: {' '.join(words)}")

    def _line(self) -> str:
        while b"\n" not in self._buffer:
            if not select.select([self._socket], [], [], self._timeout_s)[0]:
                raise QTestError("QEMU does not answer")
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                self.process.wait(5)
                assert self.process.stdout
                raise QTestError("QEMU ended: " + self.process.stdout.read().decode()[:2000])
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def wait(self, condition: Callable[[], bool], timeout_s: float = 5) -> None:
        """Until a condition holds; each look lets QEMU's own loop run (eventfds, timers)."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {timeout_s:g} s")
            time.sleep(0.002)
            self.command("clock_step 1")

    # Ports and memory.  Addresses are guest-physical; BARs are reached so too.
    def inp(self, port: int, size: int = 4) -> int:
        return int(self.command(f"in{LETTERS[size]} {port:#x}")[0], 16)

    def out(self, port: int, value: int, size: int = 4) -> None:
        self.command(f"out{LETTERS[size]} {port:#x} {value:#x}")

    def get(self, address: int, size: int) -> int:
        return int(self.command(f"read{LETTERS[size]} {address:#x}")[0], 16)

    def put(self, address: int, value: int, size: int) -> None:
        self.command(f"write{LETTERS[size]} {address:#x} {value:#x}")

    def read32(self, address: int) -> int:
        return self.get(address, 4)

    def write32(self, address: int, value: int) -> None:
        self.put(address, value, 4)

    def read(self, address: int, size: int) -> bytes:
        return bytes.fromhex(self.command(f"read {address:#x} {size:#x}")[0][2:])

    def write(self, address: int, data: bytes) -> None:
        self.command(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def pci(self, slot: int, function: int = 0, bus: int = 0) -> "Pci":
        return Pci(self, bus << 16 | slot << 11 | function << 8)

    def system_reset(self) -> None:
        """The machine's reset button; returns when QEMU has done it."""
        self.monitor.execute("system_reset")
        self.monitor.wait_event("RESET")

    def close(self) -> str:
        """End QEMU; returns what it printed."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        stdout = self.process.stdout
        text = ""
        if stdout and not stdout.closed:
            text = stdout.read().decode(errors="replace")
            stdout.close()
        self._socket.close()
        self.monitor.close()
        return "".join(
            line for line in text.splitlines(True) if "terminating on signal" not in line
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        sys.stderr.write(self.close())


class Pci:
    """One PCI function, by way of the configuration ports 0xCF8 and 0xCFC."""

    def __init__(self, qtest: QTest, place: int) -> None:
        self.q = qtest
        self.place = place
        self.bars: dict[int, int] = {}

    def get(self, offset: int, size: int = 4) -> int:
        self.q.out(0xCF8, 0x80000000 | self.place | offset & 0xFC)
        return self.q.inp(0xCFC + (offset & 3), size)

    def put(self, offset: int, value: int, size: int = 4) -> None:
        self.q.out(0xCF8, 0x80000000 | self.place | offset & 0xFC)
        self.q.out(0xCFC + (offset & 3), value, size)

    def ids(self) -> tuple[int, int]:
        value = self.get(0)
        return value & 0xFFFF, value >> 16

    def bar(self, index: int) -> tuple[int, bool, bool]:
        """A BAR's (size, is I/O, is 64 bits wide), found as firmware finds it."""
        at = 0x10 + 4 * index
        old = self.get(at)
        self.put(at, 0xFFFFFFFF)
        mask = self.get(at)
        self.put(at, old)
        if not mask:
            return 0, False, False
        if mask & 1:
            return -(mask & 0xFFFC | 0xFFFF0000) & 0xFFFFFFFF, True, False
        return -(mask & ~0xF) & 0xFFFFFFFF, False, mask & 6 == 4

    def map_bar(self, index: int, address: int) -> int:
        at = 0x10 + 4 * index
        size, _, wide = self.bar(index)
        if not size or address % size:
            raise QTestError(f"BAR {index} has size {size:#x}")
        self.put(at, address & 0xFFFFFFFF)
        if wide:
            self.put(at + 4, address >> 32)
        self.bars[index] = address
        return address

    def enable(self, bits: int = 6) -> None:
        """Memory decoding and bus mastering, or these bits of COMMAND."""
        self.put(4, self.get(4, 2) & ~7 | bits, 2)

    def capabilities(self) -> dict[int, int]:
        """The capability list as {id: offset}."""
        found: dict[int, int] = {}
        at = self.get(0x34, 1) if self.get(6, 2) & 16 else 0
        while at and at not in found.values():
            found[self.get(at, 1)] = at
            at = self.get(at + 1, 1)
        return found

    def reset_function(self) -> None:
        """FLR, as the guest asks for it."""
        control = self.capabilities()[CAP_PCIE] + 8
        self.put(control, self.get(control, 2) | 0x8000, 2)

    # MSI-X.  The table's BAR must be mapped.
    def msix_size(self) -> int:
        return (self.get(self.capabilities()[CAP_MSIX] + 2, 2) & 0x7FF) + 1

    def msix_enable(self, enabled: bool = True, *, masked: bool = False) -> None:
        at = self.capabilities()[CAP_MSIX] + 2
        self.put(at, self.get(at, 2) & 0x3FFF | enabled << 15 | masked << 14, 2)

    def _table(self, vector: int) -> int:
        where = self.get(self.capabilities()[CAP_MSIX] + 4)
        return self.bars[where & 7] + (where & ~7) + 16 * vector

    def pending(self, vector: int) -> bool:
        """The vector's bit of the PBA."""
        where = self.get(self.capabilities()[CAP_MSIX] + 8)
        at = self.bars[where & 7] + (where & ~7) + 4 * (vector // 32)
        return bool(self.q.read32(at) >> vector % 32 & 1)

    def msix_vector(self, vector: int, address: int, data: int, *, masked: bool = False) -> None:
        """Send this vector's message as a write of `data` to `address`."""
        at = self._table(vector)
        self.q.write32(at, address & 0xFFFFFFFF)
        self.q.write32(at + 4, address >> 32)
        self.q.write32(at + 8, data)
        self.q.write32(at + 12, int(masked))

    def msix_mask(self, vector: int, masked: bool) -> None:
        self.q.write32(self._table(vector) + 12, int(masked))
