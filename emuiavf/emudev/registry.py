"""The devices of this process by name, and the device models that can make them.

A model is a package that registers one row here; the wiring finds it by the driver part of a
vdev string and never imports it by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from emuiavf._dma import MemTable
from emuiavf.emudev.device import EmuDevice, ProviderOps
from emuiavf.emudev.host import VfHost
from emuiavf.emudev.info import DeviceInfo
from emuiavf.emudev.vdev import OptionTable
from emuiavf.errors import ConfigError, StateError
from emuiavf.loop import Loop
from emuiavf.stats import Segment, queue_rows
from emuiavf.vfio_user.session import DeviceOps


class Provider(DeviceOps, Protocol):
    """A device model's half of a device: what a transport serves, and the device itself."""

    @property
    def emu(self) -> EmuDevice: ...


class DataPath(Protocol):
    """A device's place in the engine."""

    @property
    def endpoint(self) -> Any:
        """What `Engine.connect` takes; part of the engine since it was made."""

    def close(self) -> None:
        """Leave the engine and unsubscribe; nothing of the device is in use afterwards."""


@dataclass(frozen=True)
class Model:
    """One kind of device.

    `create(name, options, loop)` makes a device, `options` being the values that `options`
    describes.  `attach(device, engine)` makes the data path of what `create` has made, counting
    in `device.emu.stats`; None for a model without a data path.  `host(device)` puts it into the
    host's hands; None for a model that has nothing to decide.
    """

    options: OptionTable
    create: Callable[[str, dict[str, Any], Loop], Provider]
    attach: Callable[[Any, Any], DataPath] | None = None
    host: Callable[[Any], VfHost] | None = None


models: dict[str, Model] = {}
"""By driver: `emu_iavf` for the device `emu_iavf0`."""

_devices: dict[str, EmuDevice] = {}


def find_model(driver: str) -> Model:
    """The model of that name; ConfigError names those that there are."""
    model = models.get(driver)
    if model is None:
        raise ConfigError(f"no device model {driver!r}; there are {', '.join(sorted(models))}")
    return model


def allocate(info: DeviceInfo, mem: MemTable, ops: ProviderOps) -> EmuDevice:
    """Make the device `info.name` and its counters; ConfigError when the name is taken."""
    if info.name in _devices:
        raise ConfigError(f"{info.name}: there is a device of that name already")
    stats = Segment(info.name, queue_rows(info.max_queue_pairs))
    device = EmuDevice(info, mem, stats, ops)
    _devices[info.name] = device
    return device


def release(device: EmuDevice) -> None:
    """Forget a device; its name may be used again."""
    name = device.info().name
    if _devices.get(name) is not device:
        raise StateError(f"{name}: not allocated")
    del _devices[name]


def lookup(name: str) -> EmuDevice:
    """The device called `name`; ConfigError when there is none."""
    device = _devices.get(name)
    if device is None:
        raise ConfigError(f"{name}: no such device")
    return device
