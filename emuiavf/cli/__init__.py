"""The command line: one module per verb, each with `add_parser` and `run`."""

import argparse
import os
import sys
from collections.abc import Container, Sequence
from importlib import import_module

from emuiavf.errors import ConfigError

# Imported when needed: `stats` must not load the data plane.
VERBS = {
    "run": "serve devices until SIGTERM or SIGINT",
    "exec": "run a program with devices of `run` as its VFIO devices",
    "show": "show VFs as the host sees them",
    "switches": "show switches and who is their member",
    "fdb": "show which addresses a switch sends to which member",
    "set": "change what the host decides about a VF",
    "reset": "reset a VF as its PF does",
    "inject": "have a VF fail on purpose, for those who write drivers",
    "stats": "show the counters of running devices and ports",
    "completion": "print a shell's completion of this command",
    "demo": "two devices, our own driver on both, checked frames both ways",
}

EXIT_CONFIG = 2


def make_parser(wanted: Container[str]) -> argparse.ArgumentParser:
    """The parser with the arguments of the wanted verbs; of the others only what they are."""
    parser = argparse.ArgumentParser(
        prog="emuiavf",
        description="A software Intel Adaptive Virtual Function NIC served over vfio-user.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for verb, summary in VERBS.items():
        own = verbs.add_parser(
            verb, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        if verb in wanted:
            module = import_module(f"emuiavf.cli.{verb}")
            module.add_arguments(own)
            own.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code, 2 with one line on stderr for a wrong option."""
    argv = sys.argv[1:] if argv is None else argv
    # numpy's linear algebra would start a thread per core, beside workers that want theirs alone.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    args = make_parser(argv[:1]).parse_args(argv)
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except ConfigError as error:
        print(f"emuiavf: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except BrokenPipeError:
        # The reader of our output has left; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
