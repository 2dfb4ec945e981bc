"""Devices by name and models by driver."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from emuiavf.emudev import registry
from emuiavf.emudev.device import EmuDevice, ProviderOps
from emuiavf.emudev.info import DeviceInfo
from emuiavf.errors import ConfigError, StateError


class Ops(ProviderOps):
    pass


def allocate(name: str) -> EmuDevice:
    return registry.allocate(DeviceInfo(name, "emu_x", 1, 2, 3), cast(Any, None), Ops())


@pytest.fixture
def device() -> Iterator[EmuDevice]:
    made = allocate("emu_x7")
    yield made
    made.close()
    if made in registry._devices.values():
        registry.release(made)


def test_lookup_finds_an_allocated_device(device: EmuDevice) -> None:
    assert registry.lookup("emu_x7") is device


def test_allocate_refuses_a_name_in_use(device: EmuDevice) -> None:
    with pytest.raises(ConfigError, match="emu_x7: there is a device of that name"):
        allocate("emu_x7")


def test_allocate_makes_the_counters_of_all_queues(device: EmuDevice) -> None:
    assert device.stats.names == ("rx-0", "rx-1", "tx-0", "tx-1")


def test_release_frees_the_name(device: EmuDevice) -> None:
    registry.release(device)
    with pytest.raises(ConfigError, match="emu_x7: no such device"):
        registry.lookup("emu_x7")


def test_release_twice_is_refused(device: EmuDevice) -> None:
    registry.release(device)
    with pytest.raises(StateError):
        registry.release(device)


def test_find_model_names_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "models", {"emu_b": None, "emu_a": None})
    with pytest.raises(ConfigError, match="no device model 'emu_z'; there are emu_a, emu_b"):
        registry.find_model("emu_z")
