#!/usr/bin/env python3
"""Drive PCI devices of a real QEMU without a guest.

QEMU runs with the qtest accelerator: all devices are there, no CPU executes,
and the test does what firmware and driver would do: configuration space, BARs,
port and memory accesses, guest memory.  A QEMU with vfio-user-pci is up in
less than 0.1 s, so this is the cheap way to try many cases against the real
vfio-user client.

    with QTest(cache, ["-device", '{"driver": "vfio-user-pci", "addr": "2.0", ...}']) as q:
        dev = q.pci(2)
        assert dev.ids() == (0x8086, 0x1889)
        bar0 = dev.map_bar(0, 0xe0000000)
        dev.enable()
        q.read32(bar0 + 0x8800)

An MSI or MSI-X message is a memory write, so its address may be in guest RAM:
program the vector with a RAM address and wait for the data to appear there.
"""

import argparse
import os
import select
import shlex
import socket
import subprocess
import sys
import time


class QTestError(Exception):
    pass


class QTest:
    def __init__(self, cache, qemu=(), machine="q35", memory=64, timeout=30):
        ours, theirs = socket.socketpair()
        command = [
            os.path.join(cache, "bin", "qemu-system-x86_64"),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-run-with",
            "exit-with-parent=on",
            "-accel",
            "qtest",
            "-machine",
            machine + ",memory-backend=mem",
            "-m",
            "%dM" % memory,
            "-object",
            "memory-backend-memfd,id=mem,size=%dM,share=on" % memory,
            "-chardev",
            "socket,id=qtest,fd=%d" % theirs.fileno(),
            "-qtest",
            "chardev:qtest",
            "-qtest-log",
            "none",
        ]
        self.process = subprocess.Popen(
            command + list(qemu),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.socket = ours
        self.buffer = b""
        self.timeout = timeout
        self.interrupts = []  # ("raise" or "lower", line), after intercept()
        try:
            self.command("endianness")
        except Exception:
            self.close()
            raise

    def command(self, text):
        """Send one command of the qtest protocol; returns the words after OK."""
        self.socket.sendall(text.encode() + b"\n")
        while True:
            words = self._line().split()
            if words[0] == "IRQ":
                self.interrupts.append((words[1], int(words[2])))
            elif words[0] == "OK":
                return words[1:]
            else:
                raise QTestError("{}: {}".format(text, " ".join(words)))

    def _line(self):
        while b"\n" not in self.buffer:
            ready = select.select([self.socket], [], [], self.timeout)[0]
            data = self.socket.recv(65536) if ready else None
            if not data:
                if data is None:
                    raise QTestError("QEMU does not answer")
                self.process.wait(5)
                raise QTestError("QEMU ended: " + self.process.stdout.read().decode()[:2000])
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    def pump(self, seconds=0.01):
        """Let QEMU's own loop run (event descriptors, timers of the host)."""
        time.sleep(seconds)
        self.command("clock_step 1")

    def intercept(self, path="/machine/unattached/device[0]"):
        self.command("irq_intercept_in " + path)

    # Ports and memory.  Addresses are guest-physical; BARs are reached so too.
    def inp(self, port, size=4):
        return int(self.command("in{} {:#x}".format("bwl"[size.bit_length() - 1], port))[0], 16)

    def out(self, port, value, size=4):
        self.command("out{} {:#x} {:#x}".format("bwl"[size.bit_length() - 1], port, value))

    def get(self, address, size):
        letter = {1: "b", 2: "w", 4: "l", 8: "q"}[size]
        return int(self.command(f"read{letter} {address:#x}")[0], 16)

    def put(self, address, value, size):
        letter = {1: "b", 2: "w", 4: "l", 8: "q"}[size]
        self.command(f"write{letter} {address:#x} {value:#x}")

    def read32(self, address):
        return self.get(address, 4)

    def write32(self, address, value):
        self.put(address, value, 4)

    def read(self, address, size):
        return bytes.fromhex(self.command(f"read {address:#x} {size:#x}")[0][2:])

    def write(self, address, data):
        self.command(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def pci(self, slot, function=0, bus=0):
        return Pci(self, bus << 16 | slot << 11 | function << 8)

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        text = self.process.stdout.read().decode(errors="replace")
        self.process.stdout.close()
        self.socket.close()
        return text

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        text = self.close()
        if text and "terminating on signal 15" not in text:
            sys.stderr.write(text)


class Pci:
    """One PCI function, by way of the configuration ports 0xcf8 and 0xcfc."""

    def __init__(self, qtest, place):
        self.q, self.place = qtest, place

    def get(self, offset, size=4):
        self.q.out(0xCF8, 0x80000000 | self.place | offset & 0xFC)
        return self.q.inp(0xCFC + (offset & 3), size)

    def put(self, offset, value, size=4):
        self.q.out(0xCF8, 0x80000000 | self.place | offset & 0xFC)
        self.q.out(0xCFC + (offset & 3), value, size)

    def ids(self):
        value = self.get(0)
        return value & 0xFFFF, value >> 16

    def bar(self, index):
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

    def map_bar(self, index, address):
        at = 0x10 + 4 * index
        size, _io, wide = self.bar(index)
        if not size or address % size:
            raise QTestError("BAR %d has size %#x" % (index, size))
        self.put(at, address & 0xFFFFFFFF)
        if wide:
            self.put(at + 4, address >> 32)
        return address

    def enable(self):
        """Port and memory decoding, bus mastering."""
        self.put(4, self.get(4, 2) | 7, 2)

    def capabilities(self):
        """The capability list as {id: offset}."""
        out, at = {}, self.get(0x34, 1) if self.get(6, 2) & 16 else 0
        while at and at not in out.values():
            out[self.get(at, 1)] = at
            at = self.get(at + 1, 1)
        return out


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", help="folder that fetch-vm filled")
    parser.add_argument(
        "--qemu",
        action="append",
        default=[],
        metavar="ARGS",
        help="more arguments for QEMU, split as a shell does",
    )
    args = parser.parse_args()
    extra = [word for item in args.qemu for word in shlex.split(item)]
    began = time.monotonic()
    with QTest(args.cache, extra) as q:
        print("# ready after %.3f s" % (time.monotonic() - began), file=sys.stderr)
        for slot in range(32):
            dev = q.pci(slot)
            vendor, device = dev.ids()
            if vendor != 0xFFFF:
                bars = [
                    "%d:%s%#x" % (i, "io " if b[1] else "", b[0])
                    for i, b in enumerate(map(dev.bar, range(6)))
                    if b[0]
                ]
                print(
                    "00:{:02x}.0 {:04x}:{:04x} bars {} capabilities {}".format(
                        slot,
                        vendor,
                        device,
                        " ".join(bars) or "-",
                        " ".join("{:#x}@{:#x}".format(*pair) for pair in dev.capabilities().items())
                        or "-",
                    )
                )


if __name__ == "__main__":
    main()
