"""The device model `emu_iavf`; importing the package registers it."""

from emuiavf.iavf.model import register

register()
