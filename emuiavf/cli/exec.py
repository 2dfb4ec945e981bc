"""`emuiavf exec`: a program that drives PCI devices through Linux VFIO gets ours.

    emuiavf exec --device path=vf0.sock,addr=0000:3f:00.0 -- dpdk-testpmd -a 0000:3f:00.0 ...

The program runs as a child: its exit status and signals pass through, and the private folder with
its made-up files goes away with it.
"""

import argparse
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from emuiavf.errors import ConfigError
from emuiavf.shim import LIBRARY, ROOT_VARIABLE, root
from emuiavf.shim.root import Function

_SYSTEM_DEVICES = "/sys/bus/pci/devices"
# As the shell says it.
_NOT_FOUND, _NOT_RUNNABLE = 127, 126
# Sent by the kernel to the whole foreground group of a terminal: the program has them already.
_SI_KERNEL = 0x80
_PT_INTERP = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        action="append",
        required=True,
        metavar="path=SOCKET[,addr=ADDRESS]",
        help="a device of `emuiavf run` and the PCI address the program sees it at",
    )
    parser.add_argument("program", metavar="PROGRAM")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT")


def run(args: argparse.Namespace) -> int:
    """The program's exit status; a signal that ends it ends this process too."""
    program = _find(args.program)
    if not LIBRARY.exists():
        raise ConfigError(f"{LIBRARY} was not built; run `make build`")
    system = Path(os.environ.get("SYSFS_PCI_DEVICES") or _SYSTEM_DEVICES)
    functions = _probe_all(args.device, system)
    # Not in TMPDIR where that is long: sockets of the program may come to lie there.
    folder = Path(tempfile.mkdtemp(prefix="emuiavf-exec-"))
    try:
        root.build(folder, functions, system)
        status = _supervise(program, [args.program, *args.arguments], _environment(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if os.WIFSIGNALED(status):
        _die_of(os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def _probe_all(texts: Sequence[str], system: Path) -> list[Function]:
    wanted = [_parse(text) for text in texts]
    taken = [address for _, address in wanted if address]
    if len(set(taken)) != len(taken):
        raise ConfigError("two devices of one addr=")
    if len({path for path, _ in wanted}) != len(wanted):
        raise ConfigError("two devices of one path=")
    functions = []
    for path, given in wanted:
        address = given or root.free_address(taken, system)
        taken.append(address)
        function = root.probe(path, address)
        functions.append(function)
        if not given:
            _say(f"{path} is {address}")
        if not function.whole:
            _say(
                f"{path}: only parts of BAR0 can be mapped; a program that uses it through "
                "pointers, as DPDK does, needs a device with doorbell=shared"
            )
    return functions


def _parse(text: str) -> tuple[Path, str | None]:
    """The absolute path of a socket, and the address where one is given."""
    options: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if key not in ("path", "addr") or not equals or not value or key in options:
            raise ConfigError(f"--device {text}: {part!r} is neither path=SOCKET nor addr=ADDRESS")
        options[key] = value
    if "path" not in options:
        raise ConfigError(f"--device {text}: path= is missing")
    address = root.check_address(options["addr"]) if "addr" in options else None
    return Path(options["path"]).absolute(), address


def _find(name: str) -> str:
    """The program's file; ConfigError where a library cannot be preloaded into it."""
    found = shutil.which(name)
    if found is None:
        raise ConfigError(f"{name}: no such program")
    with open(found, "rb") as file:
        header = file.read(64)
        mode = os.fstat(file.fileno()).st_mode
        if header[:5] == b"\x7fELF\x02" and len(header) == 64:
            start, size, count = (
                struct.unpack_from("<Q", header, 0x20)[0],
                *struct.unpack_from("<HH", header, 0x36),
            )
            file.seek(start)
            table = file.read(size * count)
            kinds = [int.from_bytes(table[i : i + 4], "little") for i in range(0, len(table), size)]
            if _PT_INTERP not in kinds and b"ld-linux" not in os.path.basename(found).encode():
                raise ConfigError(f"{found} is linked statically; VFIO cannot be given to it")
    if mode & 0o6000:
        raise ConfigError(f"{found} is setuid or setgid, and takes no libraries")
    return found


def _environment(folder: Path) -> dict[str, str]:
    library = str(LIBRARY)
    if " " in library or ":" in library:
        raise ConfigError(f"{library}: LD_PRELOAD takes no path with a space or a colon")
    # Behind others: a sanitizer's library has to be the first.
    given = os.environ.get("LD_PRELOAD", "")
    return {
        **os.environ,
        "LD_PRELOAD": f"{given}:{library}" if given else library,
        "SYSFS_PCI_DEVICES": str(folder / root.DEVICES),
        ROOT_VARIABLE: str(folder),
    }


def _supervise(program: str, argv: list[str], environment: dict[str, str]) -> int:
    """Run the program, pass signals on to it; returns its wait status."""
    every = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, every)
    pid = os.fork()
    if pid == 0:
        _become(program, argv, environment, before)
    while True:
        info = signal.sigwaitinfo(every)
        if info.si_signo == signal.SIGCHLD:
            done, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if done and os.WIFSTOPPED(status):
                # The shell that waits for us is to see it.
                os.kill(os.getpid(), signal.SIGSTOP)
            elif done:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                return status
        elif info.si_code != _SI_KERNEL or info.si_signo == signal.SIGCONT:
            with suppress(ProcessLookupError):
                os.kill(pid, info.si_signo)


def _become(
    program: str, argv: list[str], environment: dict[str, str], mask: set[int | signal.Signals]
) -> None:
    """The child: never returns."""
    code = _NOT_RUNNABLE
    try:
        # Python ignores these; the program is to start as from a shell.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execve(program, argv, environment)
    except OSError as error:
        _say(f"{program}: {error.strerror}")
        code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUNNABLE
    finally:
        os._exit(code)


def _die_of(number: int) -> None:
    """End as the program did, without a second core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    os.kill(os.getpid(), number)


def _say(text: str) -> None:
    print(f"emuiavf exec: {text}", file=sys.stderr, flush=True)
