"""VFIO as a program under `emuiavf exec` finds it, against devices of our own.

The errnos are the kernel's: drivers/vfio/{container,group}.c, vfio_iommu_type1.c, vfio_pci_core.c.
"""

import pytest

from tests.shim.conftest import Run

pytestmark = pytest.mark.slow


def test_sysfs_describes_the_device(run: Run) -> None:
    run("""
    for folder in ("/sys/bus/pci/devices", os.environ["SYSFS_PCI_DEVICES"]):
        assert {"0000:3f:00.0", "0000:3f:01.0"} <= set(os.listdir(folder))
        def read(name):
            return open(f"{folder}/0000:3f:00.0/{name}").read()
        assert (read("vendor"), read("device"), read("class")) == (
            "0x8086\\n", "0x1889\\n", "0x020000\\n")
        lines = [[int(word, 16) for word in line.split()] for line in read("resource").splitlines()]
        sizes = [last - first + 1 if flags else 0 for first, last, flags in lines]
        assert sizes[:6] == [0x20000, 0, 0, 0x4000, 0, 0]
        assert lines[0][2] & 0x200
        assert os.path.basename(os.readlink(f"{folder}/0000:3f:00.0/driver")) == "vfio-pci"
    assert set(os.listdir("/dev/vfio")) >= {"vfio", "1", "2"}
    assert os.path.isdir("/sys/module/vfio_pci")
    assert os.listdir("/sys/kernel/iommu_groups/1/devices") == ["0000:3f:00.0"]
    """)


def test_the_machine_s_own_devices_stay_in_sight(run: Run) -> None:
    run("""
    own = subprocess.run(["env", "-u", "LD_PRELOAD", "ls", "/sys/bus/pci/devices"],
                         capture_output=True, text=True, check=True).stdout.split()
    assert set(own) <= set(os.listdir("/sys/bus/pci/devices"))
    """)


def test_probe_sequence_of_dpdk(run: Run) -> None:
    run("""
    container = os.open("/dev/vfio/vfio", os.O_RDWR)
    assert fcntl.ioctl(container, GET_API_VERSION) == 0
    assert [fcntl.ioctl(container, CHECK_EXTENSION, n) for n in (1, 3, 7, 8)] == [1, 1, 0, 0]
    group = os.open("/dev/vfio/1", os.O_RDWR)
    assert ask(group, GROUP_GET_STATUS, "<II", 8, 0) == (8, 1)
    fcntl.ioctl(group, GROUP_SET_CONTAINER, struct.pack("<i", container))
    assert ask(group, GROUP_GET_STATUS, "<II", 8, 0) == (8, 3)
    fcntl.ioctl(container, SET_IOMMU, TYPE1)
    memory = shared(1 << 20)
    map_dma(container, memory, 1 << 20, 1 << 20)
    device = fcntl.ioctl(group, GROUP_GET_DEVICE_FD, bytearray(b"0000:3f:00.0\\0"))
    assert ask(device, GET_INFO, "<IIII", 16, 0, 0, 0) == (16, 3, 9, 5)
    assert os.pread(device, 4, CONFIG) == bytes.fromhex("86808918")
    os.pwrite(device, struct.pack("<H", 6), CONFIG + 4)
    fcntl.ioctl(device, RESET)
    # As the kernel restores it.
    assert os.pread(device, 2, CONFIG + 4) == struct.pack("<H", 6)
    assert unmap_dma(container, 1 << 20, 1 << 20) == 1 << 20
    for fd in (device, group, container):
        os.close(fd)
    """)


def test_region_info_in_two_steps(run: Run) -> None:
    run("""
    v = Vfio("0000:3f:01.0")
    short = region_info(v.device, 0)
    assert short == (64, READ | WRITE | MAPPABLE | CAPS, 0, 0, 0x20000, 0)
    assert region_info(v.device, 0, 64)[3:] == (32, 0x20000, 0, 0, 0x20000)
    assert region_info(v.device, 7) == (32, READ | WRITE, 7, 0, 4096, CONFIG)
    assert region_info(v.device, 1)[1:5] == (0, 1, 0, 0)
    """)


def test_whole_bar_can_be_mapped(run: Run) -> None:
    run("""
    v = Vfio("0000:3f:01.0")
    bar = mmap.mmap(v.device, 0x20000)
    os.close(v.device)
    # VFGEN_RSTAT: the VF is active (or about to be), and the mapping outlives its descriptor.
    assert struct.unpack_from("<I", bar, 0x8800)[0] in (1, 2)
    """)


def test_parts_of_a_bar_can_be_mapped_and_the_rest_cannot(run: Run) -> None:
    done = run("""
    v = Vfio()
    areas = region_info(v.device, 0, 4096)[6:]
    for start, size in zip(areas[::2], areas[1::2]):
        mmap.mmap(v.device, size, offset=start).close()
    fails(errno.EINVAL, mmap.mmap, v.device, 0x20000)
    fails(errno.EINVAL, lambda: mmap.mmap(v.device, 4096, mmap.MAP_PRIVATE))
    fails(errno.EINVAL, lambda: mmap.mmap(v.device, 4096, offset=3 << 40))
    fails(errno.EINVAL, lambda: mmap.mmap(v.device, 4096, offset=9 << 40))
    """)
    assert "doorbell=shared" in done.stderr


def test_config_and_bar_access(run: Run) -> None:
    run("""
    v = Vfio()
    assert v.read(CONFIG, 256) == b"".join(v.read(CONFIG + i, 1) for i in range(256))
    assert len(v.read(CONFIG, 4096)) == 4096
    fails(errno.EFAULT, v.read, CONFIG + 4094, 4)
    fails(errno.EINVAL, v.read, 0x20000, 4)
    assert len(v.read(0x1fffc, 64)) == 4
    fails(errno.EINVAL, v.read, 1 << 40, 4)
    fails(errno.EINVAL, v.read, 9 << 40, 4)
    fails(errno.EINVAL, os.pread, v.group, 4, 0)
    assert os.pwrite(v.device, b"\\x34\\x12\\0\\0", CONFIG + 0x3c) == 4
    fails(errno.EINVAL, os.read, v.device, 4)
    """)


def test_interrupts_reach_their_eventfds(run: Run) -> None:
    run("""
    v = Vfio()
    assert ask(v.device, GET_IRQ_INFO, "<IIII", 16, 0, 2, 0) == (16, 1, 2, 17)
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(17)]
    def trigger(vector):
        set_irqs(v.device, NONE | TRIGGER, 2, vector, 1)
    chosen = [*fds[:3], -1, *fds[4:]]
    set_irqs(v.device, EVENTFD | TRIGGER, 2, 0, 17, struct.pack("<17i", *chosen))
    for vector in (0, 2, 4, 16):
        trigger(vector)
        assert os.eventfd_read(fds[vector]) == 1
    set_irqs(v.device, EVENTFD | TRIGGER, 2, 4, 1, struct.pack("<i", -1))
    for fd in (fds[3], fds[4]):
        fails(errno.EAGAIN, os.eventfd_read, fd)
    set_irqs(v.device, NONE | TRIGGER, 2, 0, 0)
    # A notifier of the kernel's: there, and silent.
    assert ask(v.device, GET_IRQ_INFO, "<IIII", 16, 0, 4, 0)[3] == 1
    set_irqs(v.device, EVENTFD | TRIGGER, 4, 0, 1, struct.pack("<i", fds[0]))
    """)


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        ("EINVAL", "NONE | TRIGGER, 2, 0, 18"),
        ("EINVAL", "NONE | TRIGGER, 2, 17, 1"),
        ("EINVAL", "NONE | TRIGGER, 5, 0, 1"),
        ("EINVAL", "NONE | TRIGGER, 2, 1, 0xffffffff"),
        ("EINVAL", "NONE | BOOL | TRIGGER, 2, 0, 1"),
        ("EINVAL", "EVENTFD | TRIGGER, 2, 0, 2, bytes(4)"),
        ("EINVAL", "64 | TRIGGER, 2, 0, 1"),
        ("EINVAL", "NONE | TRIGGER, 0, 0, 1"),
        ("EBADF", "EVENTFD | TRIGGER, 2, 0, 1, struct.pack('<i', 999)"),
        ("EBADF", "EVENTFD | TRIGGER, 2, 0, 1, struct.pack('<i', -2)"),
        ("EINVAL", "EVENTFD | TRIGGER, 2, 0, 1, struct.pack('<i', 0)"),
    ],
)
def test_set_irqs_refuses_as_the_kernel(run: Run, number: str, arguments: str) -> None:
    run(f"""
    v = Vfio()
    fails(errno.{number}, set_irqs, v.device, {arguments})
    assert v.read(CONFIG, 2) == b"\\x86\\x80"
    """)


def test_container_and_group_refuse_as_the_kernel(run: Run) -> None:
    run("""
    container, group = os.open("/dev/vfio/vfio", os.O_RDWR), os.open("/dev/vfio/1", os.O_RDWR)
    name = bytearray(b"0000:3f:00.0\\0")
    fails(errno.ENOENT, os.open, "/dev/vfio/noiommu-1", os.O_RDWR)
    fails(errno.EBUSY, os.open, "/dev/vfio/1", os.O_RDWR)
    fails(errno.EINVAL, fcntl.ioctl, container, SET_IOMMU, TYPE1)
    fails(errno.EINVAL, map_dma, container, 4096, 0, 4096)
    fails(errno.EINVAL, fcntl.ioctl, group, GROUP_GET_DEVICE_FD, name)
    fails(errno.EINVAL, fcntl.ioctl, group, GROUP_UNSET_CONTAINER)
    fails(errno.EINVAL, fcntl.ioctl, group, GROUP_SET_CONTAINER, struct.pack("<i", group))
    fails(errno.EINVAL, fcntl.ioctl, group, GROUP_SET_CONTAINER, struct.pack("<i", 0))
    fails(errno.EINVAL, ask, group, GROUP_GET_STATUS, "<II", 4, 0)
    fcntl.ioctl(group, GROUP_SET_CONTAINER, struct.pack("<i", container))
    fails(errno.EINVAL, fcntl.ioctl, group, GROUP_SET_CONTAINER, struct.pack("<i", container))
    fails(errno.EINVAL, fcntl.ioctl, group, GROUP_GET_DEVICE_FD, name)
    fails(errno.ENODEV, fcntl.ioctl, container, SET_IOMMU, 7)
    fcntl.ioctl(container, SET_IOMMU, TYPE1V2)
    fails(errno.EINVAL, fcntl.ioctl, container, SET_IOMMU, TYPE1V2)
    fails(errno.ENODEV, fcntl.ioctl, group, GROUP_GET_DEVICE_FD, bytearray(b"0000:00:00.0\\0"))
    fails(errno.EINVAL, fcntl.ioctl, group, GROUP_GET_DEVICE_FD,
          bytearray(b"0000:3f:00.0 vf_token=x\\0"))
    fails(errno.ENOTTY, fcntl.ioctl, container, 0x3b80)
    device = fcntl.ioctl(group, GROUP_GET_DEVICE_FD, name)
    fails(errno.EBUSY, fcntl.ioctl, group, GROUP_UNSET_CONTAINER)
    fails(errno.ENOTTY, fcntl.ioctl, device, 0x3b90)
    fails(errno.EINVAL, ask, device, GET_INFO, "<IIII", 12, 0, 0, 0)
    fails(errno.EINVAL, region_info, device, 9)
    os.close(device)
    fcntl.ioctl(group, GROUP_UNSET_CONTAINER)
    # The last group took the IOMMU type with it.
    fails(errno.EINVAL, map_dma, container, 4096, 0, 4096)
    """)


def test_dma_maps_refuse_as_the_kernel(run: Run) -> None:
    run("""
    v = Vfio()
    memory, size = shared(1 << 20), 1 << 20
    map_dma(v.container, memory, 0, size)
    fails(errno.EEXIST, map_dma, v.container, memory, 0, size)
    fails(errno.EEXIST, map_dma, v.container, memory, size - 4096, 8192)
    fails(errno.EINVAL, map_dma, v.container, memory, size, 0)
    fails(errno.EINVAL, map_dma, v.container, memory, size + 1, 4096)
    fails(errno.EINVAL, map_dma, v.container, memory, size, 4096, 0)
    fails(errno.EINVAL, map_dma, v.container, memory, (1 << 64) - 4096, 8192)
    fails(errno.EINVAL, unmap_dma, v.container, 4096, 4096)
    fails(errno.EINVAL, unmap_dma, v.container, 0, 4096)
    assert unmap_dma(v.container, size, size) == 0
    assert unmap_dma(v.container, 0, 4 * size) == size
    map_dma(v.container, memory, 1 << 46, 4096)
    assert unmap_dma(v.container, 0, 0, 2) == 4096
    assert ask(v.container, IOMMU_GET_INFO, "<IIQ", 16, 0, 0)[1:] == (1, 0xfffffffffffff000)
    """)


def test_private_memory_is_refused_with_a_reason(run: Run) -> None:
    done = run("""
    v = Vfio()
    private = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    fails(errno.EFAULT, map_dma, v.container, private, 0, 4096)
    fails(errno.EFAULT, map_dma, v.container, 0x10000, 0, 4096)
    both = shared(8192)
    start = address_of(both)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.munmap(ctypes.c_void_p(start + 4096), ctypes.c_size_t(4096))
    fails(errno.EFAULT, map_dma, v.container, start, 0, 8192)
    map_dma(v.container, start, 0, 4096)
    os._exit(0)
    """)
    assert "is private to the program" in done.stderr
    assert "is not mapped in the program" in done.stderr


def test_a_read_only_file_cannot_be_written_by_the_device(run: Run) -> None:
    done = run("""
    v = Vfio()
    fd = os.memfd_create("dma")
    os.ftruncate(fd, 4096)
    own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    memory = mmap.mmap(own, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    start = libc.mmap(None, ctypes.c_size_t(4096), 1, 1, own, ctypes.c_long(0))
    fails(errno.EFAULT, map_dma, v.container, start, 0, 4096, READ | WRITE)
    map_dma(v.container, start, 0, 4096, READ)
    """)
    assert "for reading only" in done.stderr


def test_fork_shares_the_device(run: Run) -> None:
    run("""
    v = Vfio()
    pid = os.fork()
    if pid == 0:
        for _ in range(200):
            assert v.read(CONFIG, 4) == bytes.fromhex("86808918")
        v.close()
        os._exit(0)
    for _ in range(200):
        assert v.read(CONFIG, 4) == bytes.fromhex("86808918")
    assert os.waitpid(pid, 0)[1] == 0
    # The child's closing is the child's alone.
    assert v.read(CONFIG, 4) == bytes.fromhex("86808918")
    """)


def test_children_by_vfork_leave_the_device_alone(run: Run) -> None:
    run("""
    v = Vfio()
    for _ in range(3):
        subprocess.run(["true"], close_fds=True, check=True)
    assert v.read(CONFIG, 4) == bytes.fromhex("86808918")
    """)


def test_dup_and_close(run: Run) -> None:
    run("""
    v = Vfio()
    copies = [os.dup(v.device), fcntl.fcntl(v.device, fcntl.F_DUPFD_CLOEXEC, 100), v.open()]
    other = os.open("/dev/null", os.O_RDWR)
    os.dup2(v.device, other)
    os.close(v.device)
    for fd in (*copies, other):
        assert os.pread(fd, 4, CONFIG) == bytes.fromhex("86808918")
        os.close(fd)
        fails(errno.EBADF, os.pread, fd, 4, CONFIG)
    # All are gone: the device can be had anew, and a number means what it means to the kernel.
    v.device = v.open()
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, v.device)
    assert os.pread(v.device, 4, CONFIG) == b""
    fails(errno.ENOTTY, fcntl.ioctl, v.device, RESET)
    """)


def test_closing_every_number_spares_our_own(run: Run) -> None:
    run("""
    memory = shared(1 << 20)
    v = Vfio()
    os.closerange(3, 1 << 20)
    fails(errno.EBADF, os.pread, v.device, 4, CONFIG)
    v = Vfio()
    map_dma(v.container, memory, 0, 1 << 20)
    assert v.read(CONFIG, 4) == bytes.fromhex("86808918")
    """)


def test_two_devices_in_one_container(run: Run) -> None:
    run("""
    first = Vfio()
    memory = shared(1 << 20)
    map_dma(first.container, memory, 0, 1 << 20)
    second = Vfio("0000:3f:01.0", first.container)
    map_dma(first.container, memory, 1 << 20, 1 << 20)
    assert unmap_dma(first.container, 0, 2 << 20) == 2 << 20
    for v in (first, second):
        assert v.read(CONFIG, 4) == bytes.fromhex("86808918")
    os.close(first.device)
    assert second.read(CONFIG, 4) == bytes.fromhex("86808918")
    """)


def test_small_maps_are_joined_and_split(run: Run) -> None:
    run("""
    container, group = os.open("/dev/vfio/vfio", os.O_RDWR), os.open("/dev/vfio/1", os.O_RDWR)
    fcntl.ioctl(group, GROUP_SET_CONTAINER, struct.pack("<i", container))
    fcntl.ioctl(container, SET_IOMMU, TYPE1)
    memory = shared(64 << 20)
    start = address_of(memory)
    for at in range(0, 64 << 20, 4096):
        map_dma(container, start + at, at, 4096)
    device = fcntl.ioctl(group, GROUP_GET_DEVICE_FD, bytearray(b"0000:3f:00.0\\0"))
    assert unmap_dma(container, 8192, 4096) == 4096
    map_dma(container, start, 8192, 4096)
    assert unmap_dma(container, 0, 64 << 20) == 64 << 20
    """)


def test_threads_share_a_device(run: Run) -> None:
    run("""
    v = Vfio()
    faults = []
    def work():
        for _ in range(100):
            if v.read(CONFIG, 4) != bytes.fromhex("86808918"):
                faults.append(1)
            os.close(os.dup(v.device))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    """)


def test_everything_else_is_untouched(run: Run) -> None:
    run("""
    with open("/etc/passwd", "rb") as file:
        assert os.pread(file.fileno(), 4, 0) == file.read(4)
        fails(errno.ENOTTY, fcntl.ioctl, file.fileno(), GET_INFO, bytearray(16))
    fails(errno.ENOENT, os.stat, "/dev/vfio/77")
    memory = mmap.mmap(-1, 1 << 20)
    memory[:4] = b"abcd"
    memory.resize(2 << 20)
    assert memory[:4] == b"abcd"
    """)
