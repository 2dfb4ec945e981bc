"""Ports: the endpoints that are not a device.  Importing this package registers every kind."""

from emuiavf.ports import _tap
from emuiavf.ports._null import Null
from emuiavf.ports._pcap import Pcap
from emuiavf.ports.registry import PortKind, kinds

kinds["null"] = PortKind(Null.OPTIONS, Null)
kinds["pcap"] = PortKind(Pcap.OPTIONS, Pcap)
kinds["tap"] = PortKind(_tap.OPTIONS, _tap.create)
