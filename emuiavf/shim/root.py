"""The private root of a program under `emuiavf exec`: /dev/vfio and sysfs with the given devices.

What the library finds here it shows in place of the machine's own file of that name.  The machine's
own devices are linked in, so that a listing stays complete.
"""

import os
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emuiavf.errors import ConfigError, EmuIavfError
from emuiavf.vfio_user.client import Client, RegionIndex

DEVICES: Final = "sys/bus/pci/devices"
GROUPS: Final = "sys/kernel/iommu_groups"
VFIO: Final = "dev/vfio"
_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
# sun_path of the kernel, with its NUL.
_MAX_SOCKET_PATH = 108
# Where BARs are said to be: no real one is there, and nobody goes by it.
_BAR_BASE = 0x7F_0000_0000
_BAR_STRIDE = 1 << 24
_CONFIG_SIZE = 256
_NUM_BARS = 6
# The kernel's IORESOURCE_* of linux/ioport.h, as `resource` shows them.
_IO, _MEM, _PREFETCH, _MEM_64 = 0x40101, 0x40200, 0x2000, 0x100000


@dataclass(frozen=True)
class Function:
    """A PCI function as its server describes it."""

    path: Path
    address: str
    config: bytes
    bar_sizes: tuple[int, ...]
    # BAR0 can be mapped from one end to the other.
    whole: bool

    def bar_flags(self, bar: int) -> int:
        """The flags of a BAR in `resource`."""
        low: int = struct.unpack_from("<I", self.config, 0x10 + 4 * bar)[0]
        if low & 1:
            return _IO
        return _MEM | (_PREFETCH if low & 8 else 0) | (_MEM_64 if low & 4 else 0)


def probe(path: Path, address: str, timeout_s: float = 5.0) -> Function:
    """Ask the server at a socket what it serves; ConfigError says what to do when it cannot."""
    if len(os.fsencode(path)) >= _MAX_SOCKET_PATH:
        raise ConfigError(f"{path}: a socket's path has at most {_MAX_SOCKET_PATH - 1} bytes")
    try:
        with Client(path, timeout_s=timeout_s) as client:
            config = client.region_read(RegionIndex.CONFIG, 0, _CONFIG_SIZE)
            bars = [client.region_info(bar) for bar in range(_NUM_BARS)]
    except TimeoutError:
        raise ConfigError(f"{path}: no answer; another client may have the device") from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such socket; start `emuiavf run` first") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; is `emuiavf run` serving it?") from None
    except EmuIavfError as error:
        raise ConfigError(f"{path}: this is no PCI device over vfio-user: {error}") from None
    covered = sum(area.size for area in bars[0].areas)
    sizes = tuple(bar.size for bar in bars)
    return Function(path, address, config, sizes, covered == bars[0].size)


def check_address(text: str) -> str:
    """A PCI address; ConfigError for anything else."""
    if not _ADDRESS.fullmatch(text):
        raise ConfigError(f"addr={text}: a PCI address is as 0000:3f:00.0")
    return text


def free_address(taken: Iterable[str], system: Path) -> str:
    """A PCI address that neither the machine nor another device has."""
    used = {*taken, *_names(system)}
    for bus in (0x3F, 0x7F, 0xBF):
        for slot in range(32):
            address = f"0000:{bus:02x}:{slot:02x}.0"
            if address not in used:
                return address
    raise ConfigError("no PCI address is free; give addr=")


def build(root: Path, functions: Sequence[Function], system_devices: Path) -> None:
    """Fill an empty folder.  `system_devices` is the machine's list of PCI devices."""
    machine = {GROUPS: Path("/", GROUPS), VFIO: Path("/", VFIO), DEVICES: system_devices}
    for folder, own in machine.items():
        (root / folder).mkdir(parents=True)
        for name in _names(own):
            (root / folder / name).symlink_to(own / name)
    for module in ("vfio", "vfio_pci", "vfio_iommu_type1"):
        (root / "sys/module" / module).mkdir(parents=True)
    driver = root / "sys/bus/pci/drivers/vfio-pci"
    driver.mkdir(parents=True)
    container = root / VFIO / "vfio"
    container.unlink(missing_ok=True)
    container.touch()
    for function in functions:
        group = _free_group(root)
        _write_device(root, function, group)
        (root / DEVICES / function.address / "driver").symlink_to(driver)
        (root / VFIO / str(group)).write_text(f"{function.address}\n{function.path}\n")


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _free_group(root: Path) -> int:
    used = {*_names(root / GROUPS), *_names(root / VFIO)}
    return next(number for number in range(1, 1 << 16) if str(number) not in used)


def _write_device(root: Path, function: Function, group: int) -> None:
    folder = root / DEVICES / function.address
    if folder.is_symlink():
        raise ConfigError(f"addr={function.address}: the machine has a device of this address")
    folder.mkdir()
    members = root / GROUPS / str(group) / "devices"
    members.mkdir(parents=True)
    (members / function.address).symlink_to(folder)
    (folder / "iommu_group").symlink_to(members.parent)
    word = {
        name: struct.unpack_from("<H", function.config, offset)[0]
        for name, offset in (
            ("vendor", 0x00),
            ("device", 0x02),
            ("subsystem_vendor", 0x2C),
            ("subsystem_device", 0x2E),
        )
    }
    for name, value in word.items():
        (folder / name).write_text(f"{value:#06x}\n")
    kind = int.from_bytes(function.config[0x09:0x0C], "little")
    (folder / "class").write_text(f"{kind:#08x}\n")
    (folder / "revision").write_text(f"{function.config[0x08]:#04x}\n")
    (folder / "numa_node").write_text("-1\n")
    (folder / "config").write_bytes(function.config)
    (folder / "resource").write_text(_resources(function, group))
    (folder / "uevent").write_text(
        f"DRIVER=vfio-pci\nPCI_ID={word['vendor']:04X}:{word['device']:04X}\n"
        f"PCI_SLOT_NAME={function.address}\n"
    )


def _resources(function: Function, group: int) -> str:
    """The lines of `resource`: first and last address and flags, for BARs and for the ROM."""
    lines = []
    for bar, size in enumerate(function.bar_sizes):
        start = _BAR_BASE + (group * 8 + bar) * _BAR_STRIDE
        fields = (start, start + size - 1, function.bar_flags(bar)) if size else (0, 0, 0)
        lines.append(" ".join(f"{field:#018x}" for field in fields) + "\n")
    return "".join(lines) + "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
