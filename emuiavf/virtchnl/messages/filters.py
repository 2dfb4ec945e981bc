"""What the VF receives: addresses and promiscuous modes."""

from typing import Annotated

from emuiavf.layout import U16, Mac, Wire, wire


@wire(size=4)
class EtherAddrList(Wire):
    """ADD_ETH_ADDR, DEL_ETH_ADDR: header of a list of `EtherAddr`."""

    vsi_id: U16
    num_elements: U16 = 0


@wire(size=8)
class EtherAddr(Wire):
    addr: Mac
    type: Annotated[int, "Bx"] = 0


@wire(size=4)
class PromiscInfo(Wire):
    """CONFIG_PROMISCUOUS_MODE; flags as `ops.Promisc`."""

    vsi_id: U16
    flags: U16
