"""`python -m tests.hostile.attacker ATTACK SOCKET PID DEVICE SEED`: one attack, as a process.

Exit status 0 when the attacker has seen what it should; a traceback otherwise.
"""

import importlib
import pkgutil
import random
import sys

from tests.hostile import attacks
from tests.hostile.attacks import ATTACKS, Target


def load() -> dict[str, attacks.Attack]:
    """Every attack by name."""
    for module in pkgutil.iter_modules(attacks.__path__):
        importlib.import_module(f"{attacks.__name__}.{module.name}")
    return ATTACKS


def main(arguments: list[str]) -> None:
    name, path, pid, device, seed = arguments
    load()[name](Target(path, int(pid), device, random.Random(int(seed))))


if __name__ == "__main__":
    main(sys.argv[1:])
