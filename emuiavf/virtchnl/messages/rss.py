"""RSS: hash function, key, table and packet classes."""

from typing import Annotated

from emuiavf.layout import U16, U64, Wire, wire


@wire(size=8)
class RssHfunc(Wire):
    """CONFIG_RSS_HFUNC."""

    vsi_id: U16
    rss_algorithm: Annotated[int, "H4x"]


@wire(size=4)
class RssKey(Wire):
    """CONFIG_RSS_KEY: header of `key_len` bytes."""

    vsi_id: U16
    key_len: U16 = 0


@wire(size=4)
class RssLut(Wire):
    """CONFIG_RSS_LUT: header of `lut_entries` bytes, each a queue index."""

    vsi_id: U16
    lut_entries: U16 = 0


@wire(size=8)
class RssHena(Wire):
    """SET_RSS_HENA, and the reply of GET_RSS_HENA_CAPS: mask of packet classes."""

    hena: U64
