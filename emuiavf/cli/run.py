"""`emuiavf run`: the backend process.

Follows the conventions of vhost-user back-ends: `--socket-path`, `--fd`, stays in the foreground,
ends quickly and cleanly at SIGTERM.
"""

import argparse
import json
import logging
import os
import resource
import signal
from collections.abc import Sequence
from types import FrameType

from emuiavf.app import Backend
from emuiavf.control import place
from emuiavf.datapath.engine import IDLE_POLICIES
from emuiavf.emudev import vdev
from emuiavf.errors import ConfigError

_LEVELS = ("debug", "info", "warning", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--vdev",
        action="append",
        default=[],
        metavar="NAME,KEY=VALUE,...",
        help="a device, such as emu_iavf0,path=vf0.sock,mac=52:54:00:12:34:56,queues=4",
    )
    add(
        "--port",
        action="append",
        default=[],
        metavar="NAME,type=TYPE,...",
        help="a port, such as tap0,type=tap,ifname=vf0",
    )
    add(
        "--switch",
        action="append",
        default=[],
        metavar="NAME[,KEY=VALUE,...]",
        help="a switch, such as sw0,age=300,storm=100000, for --connect sw0,...",
    )
    add(
        "--connect",
        action="append",
        default=[],
        metavar="NAME,...",
        help="two names: 1:1; more: a switch; one: loop-back; a --switch first: the others join it",
    )
    add(
        "--control",
        metavar="PATH",
        help="where `emuiavf set` and others reach this process, or `none` "
        "(PID.control in the runtime directory)",
    )
    add("--workers", type=int, default=1, metavar="N", help="worker threads (1)")
    add("--cpus", default="", metavar="LIST", help="CPUs to pin the workers to, such as 2,4-6")
    add(
        "--idle",
        choices=IDLE_POLICIES,
        default="adaptive",
        help="an idle worker sleeps and looks now and then (adaptive), or always looks (busy)",
    )
    add("--socket-path", metavar="PATH", help="path= of the only --vdev")
    add("--fd", type=int, metavar="N", help="fd= of the only --vdev: an open socket")
    add("--ready-fd", type=int, metavar="N", help="gets a newline, then is closed, once serving")
    add("--log-level", choices=_LEVELS, default="info")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns 0 then."""
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    vdevs = _with_socket(args.vdev, args.socket_path, args.fd)
    if not vdevs:
        raise ConfigError("nothing to serve: no --vdev")
    if args.ready_fd is not None:
        _check_fd(args.ready_fd)
    _allow_many_fds()
    with Backend(args.workers, parse_cpus(args.cpus), args.idle) as backend:
        _stop_at_signals(backend)
        for text in vdevs:
            backend.add_device(text)
        for text in args.port:
            backend.add_port(text)
        for text in args.switch:
            backend.add_switch(text)
        for names in args.connect:
            backend.connect(*names.split(","))
        _serve_control(backend, args.control)
        print(qemu_options(vdevs), flush=True)
        backend.run(lambda: _tell_ready(args.ready_fd))
        logging.info("stopping")
    return 0


def parse_cpus(text: str) -> list[int]:
    """The CPUs of a list such as `2,4-6`, in its order; ConfigError for anything else, and for a
    CPU that this process may not use."""
    allowed = os.sched_getaffinity(0)
    cpus: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"--cpus {text}: {part!r} is neither a CPU nor a range of them")
        low, high = int(first), int(last or first)
        if low > high or high > max(allowed):
            raise ConfigError(
                f"--cpus {text}: there is no such range, the last CPU is {max(allowed)}"
            )
        cpus += range(low, high + 1)
    for cpu in cpus:
        if cpu not in allowed:
            raise ConfigError(f"--cpus {text}: CPU {cpu} is not one this process may use")
    return cpus


def qemu_options(vdevs: Sequence[str]) -> str:
    """The options that give a QEMU guest these devices, ready to paste."""
    lines = [
        "# QEMU 10.1.1 or later; the size is the guest's memory, the same as in -m:",
        "-machine q35,memory-backend=mem0 -m 2G \\",
        "-object memory-backend-memfd,id=mem0,size=2G,share=on",
    ]
    for text in vdevs:
        args = vdev.parse(text)
        path = args.options.get("path")
        if path is None:
            continue
        # JSON, because `socket` is a structure.
        device = {
            "driver": "vfio-user-pci",
            "id": args.name,
            "socket": {"type": "unix", "path": os.path.abspath(path)},
        }
        quoted = json.dumps(device).replace("'", r"\u0027")
        lines[-1] += " \\"
        lines.append(f"-device '{quoted}'")
    return "\n".join(lines)


def _serve_control(backend: Backend, path: str | None) -> None:
    """Where the user says; else in the usual place, without which everything else works as well."""
    if path == "none":
        return
    if path is not None:
        backend.serve_control(path)
        return
    try:
        backend.serve_control(place.default_path())
    except ConfigError as error:
        logging.warning("no control socket: %s", error)


def _with_socket(vdevs: Sequence[str], path: str | None, fd: int | None) -> list[str]:
    """The vdev strings, the only one completed by what --socket-path or --fd says."""
    given = [f"{key}={value}" for key, value in (("path", path), ("fd", fd)) if value is not None]
    if given and len(vdevs) != 1:
        raise ConfigError("--socket-path and --fd are for exactly one --vdev")
    return [",".join([text, *given]) for text in vdevs]


def _allow_many_fds() -> None:
    """A device has an eventfd for each vector and an fd for each mapped file of its guest: the 1024
    that shells allow at first, which is for select(2), would do for forty devices."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check_fd(fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError as error:
        raise ConfigError(f"--ready-fd {fd}: {error.strerror}") from None


def _tell_ready(fd: int | None) -> None:
    if fd is not None:
        try:
            os.write(fd, b"\n")
        except OSError as error:
            logging.warning("--ready-fd %d: %s", fd, error.strerror)
        os.close(fd)
    logging.info("ready")


def _stop_at_signals(backend: Backend) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        backend.interrupt()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
