"""Register tables: what stands at which offset, what it is after a reset, what a write may change.

A `RegisterFile` is the storage behind such a table.  It answers accesses of any width and
alignment; bytes that no register covers read as zero and ignore writes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from emuiavf.errors import PeerError


@dataclass(frozen=True)
class Register:
    """One register; `size` in bytes, `writable` is the mask of bits that a guest may change."""

    name: str
    offset: int
    size: int = 4
    reset: int = 0
    writable: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.size


def read_only(name: str, offset: int, size: int = 4, reset: int = 0) -> Register:
    """A register that no write changes."""
    return Register(name, offset, size, reset)


def read_write(name: str, offset: int, size: int = 4, reset: int = 0) -> Register:
    """A register of which every bit can be written."""
    return Register(name, offset, size, reset, (1 << 8 * size) - 1)


def array(
    name: str, offset: int, count: int, stride: int = 4, reset: int = 0, writable: int = 0
) -> Iterator[Register]:
    """The `count` registers `name0`, `name1`, ... `stride` bytes apart."""
    for i in range(count):
        yield Register(f"{name}{i}", offset + i * stride, 4, reset, writable)


def table(registers: Iterable[Register]) -> dict[str, Register]:
    """The registers by name; a table that contradicts itself is refused when it is imported."""
    made: dict[str, Register] = {}
    end = 0
    for register in sorted(registers, key=lambda r: r.offset):
        width = 8 * register.size
        assert register.offset >= end, f"{register.name} overlaps its neighbour"
        assert register.name not in made, f"{register.name} declared twice"
        assert not (register.reset | register.writable) >> width, (
            f"{register.name}: over {width} bits"
        )
        made[register.name] = register
        end = register.end
    return made


class RegisterFile:
    """`size` bytes of registers, little-endian."""

    def __init__(self, size: int, registers: Iterable[Register]) -> None:
        self._reset = bytearray(size)
        self._writable = bytearray(size)
        for register in registers:
            place = slice(register.offset, register.end)
            assert register.end <= size, f"{register.name} lies outside of {size} bytes"
            self._reset[place] = register.reset.to_bytes(register.size, "little")
            self._writable[place] = register.writable.to_bytes(register.size, "little")
        self._data = bytearray(self._reset)

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes at `offset`; PeerError when they are not all inside."""
        self._check(offset, count)
        return bytes(self._data[offset : offset + count])

    def write(self, offset: int, data: bytes) -> None:
        """Change the writable bits under `data`; PeerError when it does not fit inside."""
        self._check(offset, len(data))
        place = slice(offset, offset + len(data))
        mask = int.from_bytes(self._writable[place], "little")
        old = int.from_bytes(self._data[place], "little")
        new = old & ~mask | int.from_bytes(data, "little") & mask
        self._data[place] = new.to_bytes(len(data), "little")

    def get(self, register: Register) -> int:
        return int.from_bytes(self._data[register.offset : register.end], "little")

    def set(self, register: Register, value: int) -> None:
        """The device's own write: every bit of the register takes `value`."""
        self._data[register.offset : register.end] = value.to_bytes(register.size, "little")

    def reset(self) -> None:
        """Every register back to its reset value."""
        self._data[:] = self._reset

    def _check(self, offset: int, count: int) -> None:
        size = len(self._data)
        if not 0 <= offset <= size or not 0 <= count <= size - offset:
            raise PeerError(f"access at offset={offset:#x} count={count}, {size:#x} bytes there")
