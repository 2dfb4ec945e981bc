"""The attacks by name; each module registers its own.

An attack is a function of a `Target`: it does its harm in the attacker's process and asserts what
the attacker must see.  That nobody else suffers is for the test that starts it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.hostile.intruder import Intruder, Ram


@dataclass(frozen=True)
class Target:
    """The device to be attacked: its socket, the backend's pid, its name, and chance."""

    path: str
    pid: int
    device: str
    random: random.Random

    def intruder(self, ram: Callable[[], Ram] = Ram) -> Intruder:
        return Intruder(self.path, self.pid, self.device, ram)


Attack = Callable[[Target], None]
ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    """Register a function under its own name."""
    assert function.__name__ not in ATTACKS
    ATTACKS[function.__name__] = function
    return function
