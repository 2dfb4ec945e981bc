"""VLAN of both versions: filters, settings, capabilities."""

from typing import Annotated

from emuiavf.layout import U16, U32, Wire, wire


@wire(size=4)
class VlanIdList(Wire):
    """ADD_VLAN, DEL_VLAN: header of a list of `VlanId`."""

    vsi_id: U16
    num_elements: U16 = 0


@wire(size=2)
class VlanId(Wire):
    vlan_id: U16


@wire(size=8)
class VlanFilterList(Wire):
    """ADD_VLAN_V2, DEL_VLAN_V2: header of a list of `VlanFilter`."""

    vport_id: U16
    num_elements: Annotated[int, "H4x"] = 0


@wire(size=32)
class VlanFilter(Wire):
    """One VLAN filter; a part (inner, outer) is present when its tci or tpid is not zero."""

    inner_tci: U16
    inner_tci_mask: U16
    inner_tpid: Annotated[int, "H2x"]
    outer_tci: U16 = 0
    outer_tci_mask: U16 = 0
    outer_tpid: Annotated[int, "H18x"] = 0


@wire(size=16)
class VlanSetting(Wire):
    """ENABLE and DISABLE of VLAN_STRIPPING_V2 and VLAN_INSERTION_V2; bits of `VlanSupport`."""

    outer_ethertype_setting: U32
    inner_ethertype_setting: U32
    vport_id: Annotated[int, "H6x"]


@wire(size=40)
class VlanCaps(Wire):
    """Reply of GET_OFFLOAD_VLAN_V2_CAPS; bits of `VlanSupport`."""

    filtering_outer: U32
    filtering_inner: U32
    filtering_ethertype_init: U32
    max_filters: Annotated[int, "H2x"]
    stripping_outer: U32
    stripping_inner: U32
    insertion_outer: U32
    insertion_inner: U32
    offloads_ethertype_init: U32
    ethertype_match: Annotated[int, "B3x"]
