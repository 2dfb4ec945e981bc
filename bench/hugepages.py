"""Huge pages for the time of a bench, where this process may reserve them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RESERVED = Path("/proc/sys/vm/nr_hugepages")
SIZE_MB = 2


def free() -> int:
    """Huge pages of 2 MiB that nobody uses; 0 where the default size is another."""
    text = Path("/proc/meminfo").read_text()
    found = dict(re.findall(r"^(HugePages_\w+|Hugepagesize):\s+(\d+)", text, re.MULTILINE))
    if int(found.get("Hugepagesize", 0)) != SIZE_MB << 10:
        return 0
    return int(found["HugePages_Free"]) - int(found["HugePages_Rsvd"])


@contextmanager
def reserved(megabytes: int) -> Iterator[bool]:
    """Whether so many are free; reserves what is missing and takes as many away at the end.

    Others may have changed the number meanwhile: theirs stay.
    """
    missing = megabytes // SIZE_MB - free()
    if missing <= 0:
        yield True
        return
    try:
        got = _add(missing)
    except OSError:
        yield False
        return
    try:
        yield free() >= megabytes // SIZE_MB
    finally:
        _add(-got)


def _add(pages: int) -> int:
    """How many the kernel has added; it may have room for fewer."""
    before = int(RESERVED.read_text())
    RESERVED.write_text(str(max(0, before + pages)))
    return int(RESERVED.read_text()) - before
