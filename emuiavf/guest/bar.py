"""BAR0 as a driver sees it: mapped pages by loads and stores, all others by messages."""

import mmap

from emuiavf.vfio_user.client import Client, RegionIndex


class Bar0:
    """Registers of one device.  Offsets are multiples of 4 inside the region."""

    def __init__(self, client: Client, *, map_doorbells: bool = True) -> None:
        """`map_doorbells` False uses messages even where the device offers pages."""
        self._client = client
        self._maps: list[mmap.mmap] = []
        self._views: list[tuple[int, memoryview]] = []
        areas = client.region_info(RegionIndex.BAR0).areas if map_doorbells else ()
        for area in areas:
            mapped = client.map_area(RegionIndex.BAR0, area)
            self._maps.append(mapped)
            self._views.append((area.offset, memoryview(mapped)))

    def word(self, offset: int) -> memoryview | None:
        """The four mapped bytes of a register, or None when its page traps."""
        for start, view in self._views:
            if start <= offset < start + len(view):
                return view[offset - start : offset - start + 4]
        return None

    def read32(self, offset: int) -> int:
        word = self.word(offset)
        return self._client.read32(RegionIndex.BAR0, offset) if word is None else word.cast("I")[0]

    def write32(self, offset: int, value: int, *, posted: bool = False) -> None:
        """Write a register; a posted write to a page that traps does not wait for its answer."""
        word = self.word(offset)
        if word is None:
            self._client.write32(RegionIndex.BAR0, offset, value, posted)
        else:
            word.cast("I")[0] = value
