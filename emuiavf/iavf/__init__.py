"""The device model `emu_iavf`.  Importing the package registers it."""

from typing import Any

from emuiavf.emudev import registry
from emuiavf.iavf.options import OPTIONS


def _create(name: str, options: dict[str, Any], loop: Any) -> Any:
    # Late: our own driver imports `emuiavf.iavf.regs` and nothing of the device.
    from emuiavf.iavf.device import IavfDevice

    return IavfDevice(name, options, loop)


def _attach(device: Any, engine: Any) -> Any:
    from emuiavf.iavf.backend import RingBackend

    return RingBackend(device, engine)


def _host(device: Any) -> Any:
    from emuiavf.iavf.host import IavfHost

    return IavfHost(device)


registry.models["emu_iavf"] = registry.Model(OPTIONS, _create, _attach, _host)
