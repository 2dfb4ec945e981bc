"""Faults on purpose: what the guest sees, and that each has an end."""

import struct
import time
from collections.abc import Callable

from emuiavf.iavf import regs
from emuiavf.iavf.reset import HOLD_S
from tests.fakes.vf_driver import VfDriver
from tests.iavf.conftest import (
    LINK_CHANGE,
    RESET_IMPENDING,
    Bench,
    again,
    events,
    resources,
)

GET_STATS = 15
SELECT = struct.pack("<HHII", 1, 0, 0, 0)
TIMEOUT_S = 10.0


def serve(bench: Bench, until: Callable[[], object]) -> None:
    """Let timers run until something holds."""
    deadline = time.monotonic() + TIMEOUT_S
    while not until():
        assert time.monotonic() < deadline
        bench.loop.run_once(0.05)


def let_pass(bench: Bench, seconds: float) -> None:
    """Whatever is due within that time has happened."""
    due: list[bool] = []
    bench.loop.call_later(seconds, lambda: due.append(True))
    serve(bench, lambda: due)


def test_link_is_down_for_a_while(bench: Bench, driver: VfDriver) -> None:
    bench.device.inject.link_down(0.05)
    (down,) = events(driver)
    assert struct.unpack_from("<iIB", down)[0::2] == (LINK_CHANGE, 0)
    assert bench.device.inject.active == ("link-down",)
    serve(bench, lambda: not bench.device.inject.active)
    (up,) = events(driver)
    assert struct.unpack_from("<iIB", up)[0::2] == (LINK_CHANGE, 1)


def test_second_link_down_takes_the_place_of_the_first(bench: Bench, driver: VfDriver) -> None:
    bench.device.inject.link_down(0.01)
    bench.device.inject.link_down(3600)
    let_pass(bench, 0.02)
    assert bench.device.inject.active == ("link-down",)


def test_pf_reset_takes_its_time(bench: Bench, driver: VfDriver) -> None:
    seconds = 2 * HOLD_S  # more than every announced reset takes
    bench.device.inject.pf_reset(seconds)
    began = time.monotonic()
    notice = driver.receive()
    assert notice is not None
    assert struct.unpack_from("<i", notice.body) == (RESET_IMPENDING,)
    assert bench.read32(regs.VFGEN_RSTAT.offset) == 0
    serve(bench, lambda: bench.read32(regs.VFGEN_RSTAT.offset) == 2)
    assert time.monotonic() - began >= seconds
    driver.open()
    assert resources(driver)


def test_vflr_comes_without_notice(bench: Bench, driver: VfDriver) -> None:
    bench.device.inject.vflr()
    assert bench.read32(regs.ARQLEN1.offset) == 0
    assert bench.device.region_read(7, 4, 2) == b"\x06\x00"
    driver.open()
    driver.send(1, struct.pack("<II", 1, 1))
    assert driver.receive() is not None
    assert resources(driver)


def test_lost_requests_are_completed_and_not_answered(bench: Bench, driver: VfDriver) -> None:
    bench.device.inject.adminq_drop(2, 0)
    for _ in range(2):
        driver.send(GET_STATS, SELECT)
        assert driver.receive() is None
    assert bench.device.inject.active == ()
    driver.send(GET_STATS, SELECT)
    assert driver.receive() is not None


def test_reset_request_is_never_lost(bench: Bench, driver: VfDriver) -> None:
    bench.device.inject.adminq_drop(1, 0)
    driver.send(2)
    assert bench.read32(regs.ARQLEN1.offset) == 0
    assert bench.device.inject.active == ("adminq-drop 1",)


def test_driver_that_waits_for_a_lost_answer_is_reset(bench: Bench, driver: VfDriver) -> None:
    bench.device.inject.adminq_drop(5, 0.05)
    driver.send(GET_STATS, SELECT)
    serve(bench, lambda: not bench.device.inject.active)
    again(bench, driver)


def test_driver_that_goes_on_is_not_reset(bench: Bench, driver: VfDriver) -> None:
    bench.device.inject.adminq_drop(1, 0.02)
    for _ in range(2):
        driver.send(GET_STATS, SELECT)
    assert driver.receive() is not None
    let_pass(bench, 0.03)
    assert driver.receive() is None


def test_refused_request_is_not_carried_out(bench: Bench, driver: VfDriver) -> None:
    bench.device.inject.adminq_error(14, -18, 1)
    assert bench.device.inject.active == ("adminq-error CONFIG_PROMISCUOUS_MODE -18 1",)
    bench.sink.calls.clear()
    for status in (-18, 0):
        driver.send(14, struct.pack("<HH", 1, 3))
        answer = driver.receive()
        assert answer is not None
        assert (answer.opcode, answer.status) == (14, status)
        assert bench.sink.names() == ([] if status else ["set_rx_filter"])
    assert bench.device.inject.active == ()


def test_requests_are_refused_as_often_as_asked(bench: Bench, driver: VfDriver) -> None:
    bench.device.inject.adminq_error(GET_STATS, -5, 2)
    found = []
    for _ in range(3):
        driver.send(GET_STATS, SELECT)
        answer = driver.receive()
        assert answer is not None
        found.append(answer.status)
    assert found == [-5, -5, 0]


def test_unknown_opcode_can_be_refused_too(bench: Bench, driver: VfDriver) -> None:
    bench.device.inject.adminq_error(999, -5, 1)
    assert bench.device.inject.active == ("adminq-error 999 -5 1",)


def test_lost_interrupts_are_repeated_until_none_is_left(bench: Bench) -> None:
    bench.device.inject.irq_drop(3, 0.01)
    assert bench.device.inject.active == ("irq-drop 3",)
    bench.control.interrupts_missing = True
    serve(bench, lambda: bench.control.repeated)
    bench.control.interrupts_left = 0
    bench.control.interrupts_missing = True
    serve(bench, lambda: bench.control.repeated == 2)
    assert bench.device.inject.active == ()


def test_lost_interrupts_stay_lost_on_request(bench: Bench) -> None:
    bench.device.inject.irq_drop(3, 0)
    bench.control.interrupts_missing = True
    let_pass(bench, 0.02)
    assert bench.control.repeated == 0


def test_hang_ends(bench: Bench) -> None:
    bench.device.inject.tx_hang(0.02)
    assert bench.device.inject.active == ("tx-hang",)
    woken = bench.control.wakes
    serve(bench, lambda: not bench.device.inject.active)
    assert bench.control.wakes > woken


def test_corruption_is_counted(bench: Bench) -> None:
    bench.device.inject.rx_corrupt(4)
    assert bench.device.inject.active == ("rx-corrupt 4",)


def test_device_without_a_data_path_takes_every_injection(bench: Bench) -> None:
    bench.device.connect(None)
    inject = bench.device.inject
    inject.irq_drop(1, 1)
    inject.rx_corrupt(1)
    inject.tx_hang(1)
    assert inject.active == ()


def test_device_that_is_closed_takes_its_timers_along(bench: Bench) -> None:
    bench.device.inject.link_down(0.01)
    bench.device.inject.close()
    let_pass(bench, 0.02)
    assert bench.device.inject.active == ()
