"""A guest whose VF is wired to a TAP of the host's namespace: what most checks start from."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.vm.harness import measure
from tests.vm.harness.backend import BackendProcess, vfio_user_device
from tests.vm.harness.guest import Guest, GuestError
from tests.vm.harness.netns import Namespace

MAC = "52:54:00:12:34:56"
TAP = "vf0"
DEVICE = "emu_iavf0"


@dataclass(frozen=True)
class Subnet:
    """Addresses of one wire: .1 is the host, .2 the guest."""

    number: int = 0

    @property
    def host(self) -> str:
        return f"10.77.{self.number}.1"

    @property
    def guest(self) -> str:
        return f"10.77.{self.number}.2"

    @property
    def host6(self) -> str:
        return f"fd77:{self.number}::1"

    @property
    def guest6(self) -> str:
        return f"fd77:{self.number}::2"


class Rig:
    """Backend and guest of one VF; the guest is up and addressed.

    `queues` pairs and as many CPUs; `pairs`: the device has more pairs than the guest has CPUs.
    """

    def __init__(
        self,
        cache: Path,
        kernel: str,
        host: Namespace,
        folder: Path,
        *,
        queues: int = 2,
        pairs: int = 0,
        backend: Sequence[str] = (),
        device: str = "",
        reboot: bool = False,
        hotplug: bool = False,
    ) -> None:
        self.cache, self.kernel, self.host, self.folder = cache, kernel, host, folder
        self.net = Subnet()
        self.socket = folder / "vf0.sock"
        self.queues, self.reboot, self.hotplug = queues, reboot, hotplug
        options = f"{DEVICE},path={self.socket},mac={MAC},queues={pairs or queues}{device}"
        self.backend = BackendProcess(
            [
                *("--vdev", options),
                *("--port", f"tap0,type=tap,ifname={TAP}"),
                *("--connect", f"{DEVICE},tap0"),
                *backend,
            ],
            folder / "backend.log",
            host,
        )
        self.ifname = ""
        self._stack = ExitStack()

    def qemu(self, plugged: bool) -> list[str]:
        if not self.hotplug:
            return vfio_user_device(self.socket, addr="5.0")
        port = ["-device", "pcie-root-port,id=port0,chassis=1,slot=1,addr=5.0"]
        return port + vfio_user_device(self.socket, id="nic0", bus="port0") * plugged

    def plug(self) -> None:
        """Plug the device into the root port of a running guest."""
        where = {"type": "unix", "path": str(self.socket)}
        self.vm.monitor.execute(
            "device_add", driver="vfio-user-pci", id="nic0", bus="port0", socket=where
        )

    def boot(self, *, plugged: bool = True) -> Guest:
        """Start a guest on the socket, and bring its interface up."""
        self.vm = Guest(
            self.cache,
            self.kernel,
            self.qemu(plugged),
            load=["iavf"],
            cpus=max(2, self.queues),
            log=self.folder / "console.log",
            reboot=self.reboot,
        )
        if plugged:
            self.configure()
        return self.vm

    def configure(self, timeout_s: float = 20) -> None:
        """Addresses on the guest's interface; returns when it has a carrier."""
        self.ifname = measure.interface(self.vm, driver="iavf", timeout_s=timeout_s)
        name, net = self.ifname, self.net
        self.vm.check(
            "echo 1 > /proc/sys/net/ipv6/conf/all/keep_addr_on_down; "
            f"ip addr replace {net.guest}/24 dev {name} && ip link set {name} up && "
            f"ip addr replace {net.guest6}/64 dev {name} nodad"
        )
        self.wait_carrier(timeout_s)

    def wait_carrier(self, timeout_s: float = 20) -> None:
        self.vm.wait(f"[ $(cat /sys/class/net/{self.ifname}/carrier) = 1 ]", timeout_s)

    def wait_ping(self, timeout_s: float = 3) -> None:
        """Until the host answers at all."""
        self.vm.wait(f"ping -n -q -c 1 -W 0.2 {self.net.host}", timeout_s)

    def ping(self, count: int = 100, size: int = 64) -> measure.Ping:
        return measure.ping(self.vm, self.net.host, count, size)

    def change(self, command: str) -> None:
        """A command for which iavf resets the VF, and waits for that.

        iavf of 6.1 waits with the lock held that its own reset needs, and fails with EBUSY after
        5 s, before the change is made; so there it is made with the interface down.
        """
        if self.kernel != "6.1":
            self.vm.check(command)
        else:
            name = self.ifname
            self.vm.check(f"ip link set {name} down")
            code, text = self.vm.run(command)
            if code and not re.search(r"busy", text, re.IGNORECASE):
                raise GuestError(f"guest: {command}: exit code {code}\n{text}")
            self.vm.wait(f"ip link set {name} up && ethtool -k {name} >/dev/null")
        self.wait_carrier()

    def set_mtu(self, mtu: int) -> None:
        """Of both ends, unless they have it."""
        self.host.run("ip", "link", "set", TAP, "mtu", str(mtu))
        if self.vm.check(f"cat /sys/class/net/{self.ifname}/mtu").strip() != str(mtu):
            self.change(f"ip link set {self.ifname} mtu {mtu}")

    def stats(self) -> dict[str, int]:
        return self.backend.stats(DEVICE)

    def ethtool(self, words: str) -> str:
        """ethtool in the guest: option letters and what follows the name.

        Changes of flows (-N) are asked again: iavf refuses them with EINVAL where another of its
        tasks has its lock for more than 50 us.
        """
        option, _, rest = words.partition(" ")
        command = f"ethtool {option} {self.ifname} {rest}"
        return self.vm.wait(command, 5) if option == "-N" else self.vm.check(command)

    def guest_stats(self) -> dict[str, int]:
        return measure.ethtool_stats(self.ethtool("-S"))

    @property
    def bdf(self) -> str:
        """The device's place on the guest's PCI bus."""
        text = self.vm.check(f"readlink /sys/class/net/{self.ifname}/device")
        return text.strip().rpartition("/")[2]

    def __enter__(self) -> Self:
        try:
            self.backend.start()
            self._stack.callback(self.backend.stop)
            self.host.address(TAP, f"{self.net.host}/24", f"{self.net.host6}/64")
            self.boot()
        except BaseException:
            self.__exit__(None, None, None)
            print(self.backend.said())
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if hasattr(self, "vm"):
            self.vm.close()
        self._stack.close()

    def backend_faults(self) -> list[str]:
        """Lines of the backend's log that no clean run may have."""
        return re.findall(r"^.*(?:Traceback|ERROR|CRITICAL|broken).*$", self.backend.said(), re.M)
