"""A guest that is up and does nothing costs next to nothing."""

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.harness.netns import Namespace
from tests.vm.harness.rig import TAP, Rig

KERNELS = ("6.12",)
WATCHED_S = 5.0
# A guest that has just booted still sends now and then: so many times have to be without a frame.
WINDOWS = 3
MOST_WINDOWS = 12
ALLOWED = 0.03


@pytest.fixture(scope="module")
def rig(
    kernel: str, cache: Path, host: Namespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp(f"idle-{kernel}")
    with Rig(cache, kernel, host, folder, backend=["--idle", "adaptive"]) as ready:
        yield ready


def frames(rig: Rig) -> int:
    """How many there have been between the guest and its host, both ways."""
    (link,) = json.loads(rig.host.run("ip", "-json", "-stats", "link", "show", TAP))
    return int(sum(link["stats64"][way]["packets"] for way in ("rx", "tx")))


def test_an_idle_backend_uses_three_percent_of_a_core_at_most(rig: Rig) -> None:
    assert rig.ping(50).clean
    rig.vm.check("sleep 1")
    used: list[float] = []
    idle: list[float] = []
    for _ in range(MOST_WINDOWS):
        seen, before, began = frames(rig), rig.backend.cpu_seconds(), time.monotonic()
        rig.vm.check(f"sleep {WATCHED_S:g}")
        used.append((rig.backend.cpu_seconds() - before) / (time.monotonic() - began))
        if frames(rig) == seen:
            idle.append(used[-1])
        if len(idle) == WINDOWS:
            break
    assert len(idle) == WINDOWS, "the guest is never idle"
    for shares in (idle, used):
        assert statistics.median(shares) <= ALLOWED, (
            " ".join(f"{share:.1%}" for share in shares) + " of a core"
        )
    assert rig.ping(50).clean
