"""`emu_iavf` as a device model: how a device and its data path are made."""

from emuiavf.datapath.engine import Engine
from emuiavf.emudev import registry
from emuiavf.emudev.device import EmuDevice
from emuiavf.iavf.backend import RingBackend
from emuiavf.iavf.device import MODEL, OPTIONS, IavfDevice


def attach(emu: EmuDevice, engine: Engine) -> RingBackend:
    """The data path of a device of this model, joined to both."""
    device = emu.ops
    assert isinstance(device, IavfDevice)
    return RingBackend(emu, engine, device)


def register() -> None:
    """Make the model known under the driver name of its vdev strings."""
    registry.models[MODEL] = registry.Model(OPTIONS, IavfDevice, attach)
