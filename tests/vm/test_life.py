"""What a device goes through in its life: each time it works again within 3 s, and loses nothing.

One guest per kernel lives through all of it, behind a root port so that it can be unplugged.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vm.harness import measure
from tests.vm.harness.guest import GuestError
from tests.vm.harness.netns import Namespace
from tests.vm.harness.rig import MAC, TAP, Rig

# iavf has no reset callbacks: it finds out about a function-level reset from its watchdog, and says
# so; 7.x warns of every reset of a function whose driver has none, and of a request that is made
# before the watchdog comes.
# iavf of 6.1 cannot finish a reset while it waits for it (Rig.change).
RESET_NOTICED = (
    r"Hardware reset detected",
    r"iavf \S+: (?:resetting|reset done)$",
    r"Unable to send ADD_ETH_ADDR message to PF, error -110$",
    r"Failed to send PTP command \d+$",
    r"interrupted waiting for reset",
)
OTHER_MAC = "52:54:00:12:34:99"
AGAIN_S = 3.0
# How often that watchdog looks.
WATCHDOG_S = 2.0


@pytest.fixture(scope="module")
def rig(
    kernel: str, cache: Path, host: Namespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp(f"life-{kernel}")
    with Rig(cache, kernel, host, folder, queues=4, reboot=True, hotplug=True) as ready:
        yield ready
    assert ready.backend_faults() == []


Works = Callable[[], None]


@pytest.fixture
def works(rig: Rig) -> Iterator[Works]:
    """Called after each change: the device works again in time; at the end nothing is lost."""

    def check() -> None:
        rig.wait_ping(AGAIN_S)

    check()
    rig.vm.check("dmesg -c > /dev/null")
    yield check
    result = rig.ping(100)
    assert result.clean, result
    assert measure.complaints(rig.vm, RESET_NOTICED) == []


@contextmanager
def traffic(rig: Rig) -> Iterator[None]:
    """A flood of the guest in the background."""
    rig.vm.check(f"ping -n -q -f -s 1000 {rig.net.host} > /dev/null 2>&1 & echo $! > /tmp/flood")
    try:
        yield
    finally:
        rig.vm.check("kill -9 $(cat /tmp/flood); wait; true")


def test_down_and_up_twenty_times(rig: Rig, works: Works) -> None:
    for _ in range(20):
        rig.vm.check(f"ip link set {rig.ifname} down && ip link set {rig.ifname} up")
        rig.wait_carrier(AGAIN_S)
        works()


def test_driver_unloaded_and_loaded_five_times(rig: Rig, works: Works) -> None:
    for _ in range(5):
        rig.vm.check("rmmod iavf && modprobe iavf")
        rig.configure()
        works()


@pytest.mark.parametrize("mtu", [9000, 1500])
def test_mtu(rig: Rig, works: Works, mtu: int) -> None:
    rig.set_mtu(mtu)
    works()
    result = rig.ping(50, mtu - 28)
    assert result.clean, result


@pytest.mark.parametrize("size", [64, 4096, 512])
def test_ring_size(rig: Rig, works: Works, size: int) -> None:
    rig.change(f"ethtool -G {rig.ifname} rx {size} tx {size}")
    works()
    assert re.findall(r"^[RT]X:\s+(\d+)", rig.ethtool("-g"), re.M)[2:] == [str(size)] * 2


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_channels(rig: Rig, works: Works, pairs: int) -> None:
    rig.change(f"ethtool -L {rig.ifname} combined {pairs}")
    works()
    assert re.findall(r"Combined:\s+(\d+)", rig.ethtool("-l"))[1] == str(pairs)


def test_indirection_table(rig: Rig, works: Works) -> None:
    rig.ethtool(f"-X weight 0 0 1 0 {measure.XFRM_NONE}")
    works()
    received = f"$(ethtool -S {rig.ifname} | sed -n 's/.*rx-2.packets: //p')"
    # The driver sends the table when its watchdog comes round to it.
    before = rig.guest_stats()["rx-2.packets"]
    rig.vm.wait(f"ping -n -q -c 1 -W 0.2 {rig.net.host} >&2; [ {received} -gt {before} ]")
    before = rig.guest_stats()["rx-2.packets"]
    result = measure.read_ping(
        rig.host.run(rig.cache / "bin" / "ping", "-n", "-i", "0.005", "-c", "50", rig.net.guest)
    )
    assert result.clean, result
    rig.vm.wait(f"[ {received} -ge {before + 50} ]")
    rig.ethtool(f"-X default {measure.XFRM_NONE}")


def test_mac_change(rig: Rig, works: Works) -> None:
    for mac in (OTHER_MAC, MAC):
        rig.vm.check(f"ip link set {rig.ifname} address {mac}")
        rig.host.run("ip", "neigh", "flush", "dev", TAP)
        works()
        assert rig.vm.check(f"cat /sys/class/net/{rig.ifname}/address").strip() == mac
        assert mac in rig.host.run("ip", "neigh", "show", rig.net.guest)


def test_a_hundred_multicast_groups(rig: Rig, works: Works) -> None:
    loop = "for i in $(seq 1 100); do ip maddr {} 01:00:5e:01:01:$(printf %02x $i) dev {}; done"
    rig.vm.check(loop.format("add", rig.ifname))
    works()
    before = rig.guest_stats()["rx_multicast"]
    for last in (1, 50, 100):
        rig.host.run(
            *(rig.cache / "bin" / "ping", "-n", "-q", "-c", "1", "-W", "0.1"),
            *("-I", TAP, f"239.1.1.{last}"),
            check=False,
        )
    rig.vm.wait(f"[ $(ethtool -S {rig.ifname} | sed -n 's/.*rx_multicast: //p') -ge {before + 3} ]")
    rig.vm.check(loop.format("del", rig.ifname))
    works()


@pytest.fixture
def known_neighbours(rig: Rig) -> Iterator[None]:
    """Neither end need ask for the other's address.

    An ARP request that is made while there is no carrier is lost in the kernel, and repeated after
    1 s: with the watchdog's 2 s, the kernels' own waiting takes the whole time that the device has.
    """
    mac = rig.host.run("cat", f"/sys/class/net/{TAP}/address").strip()
    guest, host = f"{rig.net.host} dev {rig.ifname}", (rig.net.guest, "dev", TAP)
    rig.vm.check(f"ip neigh replace {guest} lladdr {mac} nud permanent")
    rig.host.run("ip", "neigh", "replace", *host, "lladdr", MAC, "nud", "permanent")
    yield
    rig.vm.check(f"ip neigh del {guest}")
    rig.host.run("ip", "neigh", "del", *host)


@pytest.mark.usefixtures("known_neighbours", "works")
def test_function_level_reset_under_traffic(rig: Rig) -> None:
    with traffic(rig):
        rig.vm.check(f"echo 1 > /sys/bus/pci/devices/{rig.bdf}/reset")
    # Its share of the time is the watchdog's, on a busy machine more than it should be.
    rig.vm.wait(f"dmesg | grep -q '{RESET_NOTICED[0]}'")
    rig.wait_ping(AGAIN_S - WATCHDOG_S)


def test_bus_mastering_off_and_on_under_traffic(rig: Rig, works: Works) -> None:
    with traffic(rig):
        rig.vm.check(f"setpci -s {rig.bdf} COMMAND=0:4")
        code, _ = rig.vm.run(f"ping -n -q -c 3 -i 0.05 -W 0.2 {rig.net.host}")
        assert code != 0
        rig.vm.check(f"setpci -s {rig.bdf} COMMAND=4:4")
    works()


def test_removed_by_the_guest_and_found_again(rig: Rig, works: Works) -> None:
    rig.vm.check(f"echo 1 > /sys/bus/pci/devices/{rig.bdf}/remove; echo 1 > /sys/bus/pci/rescan")
    rig.configure()
    works()


def test_machine_reset_three_times(rig: Rig) -> None:
    for _ in range(3):
        rig.vm.monitor.execute("system_reset")
        rig.vm.wait_ready()
        rig.configure()
        rig.wait_ping(AGAIN_S)
        result = rig.ping(100)
        assert result.clean, result
        assert measure.complaints(rig.vm) == []


def unplug(rig: Rig) -> None:
    """device_del, until QEMU has let go of the device."""
    try:
        rig.vm.monitor.execute("device_del", id="nic0")
        rig.vm.monitor.wait_event("DEVICE_DELETED", 60)
    except GuestError:
        said = rig.vm.close()
        rig.boot()
        # hw/vfio-user/pci.c takes the PBA's memory region out of a BAR that is already gone, for
        # every device with MSI-X.
        if "memory_region_del_subregion" in said:
            pytest.xfail("this QEMU aborts when it unplugs a vfio-user device with MSI-X")
        raise


def test_unplugged_and_plugged_again(rig: Rig, works: Works) -> None:
    unplug(rig)
    rig.vm.wait("! ls /sys/bus/pci/drivers/iavf/0000:* 2>/dev/null")
    rig.plug()
    rig.configure(60)
    works()


def test_plugged_into_a_running_guest(rig: Rig) -> None:
    rig.vm.close()
    rig.boot(plugged=False)
    rig.plug()
    rig.configure(60)
    rig.wait_ping(AGAIN_S)
    result = rig.ping(100)
    assert result.clean, result
    assert measure.complaints(rig.vm) == []


def test_killed_in_traffic_then_a_new_qemu_on_the_same_socket(rig: Rig) -> None:
    with pytest.raises(Exception, match=r"QEMU ended|Broken pipe"), traffic(rig):
        rig.vm.kill()
    rig.vm.close()
    rig.boot()
    rig.wait_ping(AGAIN_S)
    result = rig.ping(100)
    assert result.clean, result
    assert measure.complaints(rig.vm) == []
