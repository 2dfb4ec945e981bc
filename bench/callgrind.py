"""Instructions by function inside of `Worker.step`, counted by callgrind.

Counts do not depend on what else the machine does.  Valgrind shows every program the same CPU, one
with AVX2 and without AVX-512, wherever the machine has as much: so the run-time choice of kernels,
ours and the C library's, is the same on all of them.

Needs valgrind (Debian: apt-get install valgrind).
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emuiavf.datapath import _worker

STEP = re.compile(rb"__pyx_pw_\w+Worker_\d+step\b")
LENGTH = re.compile(r"_(\d+)")
FUNCTION = re.compile(r"^(c?)fn=\((\d+)\)(?: (.*))?$")
TIMEOUT_S = 300


def plain(name: str) -> str:
    """__pyx_f_7emuiavf_8_ring_rx_rx_put -> rx_put: parts of the path have their length in front."""
    if not name.startswith("__pyx_"):
        return name
    at = part = name.index("_", len("__pyx_"))
    while match := LENGTH.match(name, at):
        part = match.end()
        at = part + int(match[1])
    return name[at + 1 :] or name[part:]


@dataclass
class Costs:
    """What one part of a run cost, by plain names of functions.

    `own`: a function's own instructions, with all that was inlined.  `calls`: instructions spent in
    calls from one function (the first) to another, with all that the callee called.
    """

    own: Counter[str] = field(default_factory=Counter)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def all(self) -> int:
        return sum(self.own.values())

    def spent_in(self, prefix: str) -> int:
        """Instructions in functions whose names begin so, with all that they called."""
        return sum(
            cost
            for (caller, callee), cost in self.calls.items()
            if callee.startswith(prefix) and not caller.startswith(prefix)
        )


def read(lines: Sequence[str]) -> Costs:
    """The costs of one dump; names are numbered within it."""
    names: dict[str, str] = {}
    costs = Costs()
    caller = callee = ""
    called = False
    for line in lines:
        if match := FUNCTION.match(line):
            of_call, number, name = match.groups()
            if name:
                names[number] = plain(name)
            if of_call:
                callee = names[number]
            else:
                caller = names[number]
        elif line.startswith("calls="):
            called = True
        elif line[:1].isdigit() or line[:1] in "+-*":
            # A line without a cost is one where nothing was collected.
            if " " in line:
                cost = int(line.split()[1])
                if called:
                    costs.calls[caller, callee] += cost
                else:
                    costs.own[caller] += cost
            called = False
    return costs


def count_steps(script: Path, *arguments: str) -> list[Costs]:
    """The costs of each `Worker.step` that a Python program makes, in their order."""
    found = STEP.search(Path(_worker.__file__).read_bytes())
    if found is None:
        raise RuntimeError(f"{_worker.__file__}: no symbol of Worker.step; is it stripped?")
    step = found[0].decode()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        command = ["valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={out}"]
        # Where a pattern would do for the one, the other takes nothing but the whole name.
        command += [f"--toggle-collect={step}", f"--dump-after={step}"]
        subprocess.run(
            [*command, sys.executable, str(script), *arguments],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            timeout=TIMEOUT_S,
        )
        # The last one, of the program's end, has no number.
        dumps = sorted(out.parent.glob("out.*"), key=lambda path: int(path.suffix[1:]))
        return [read(path.read_text().splitlines()) for path in dumps]
