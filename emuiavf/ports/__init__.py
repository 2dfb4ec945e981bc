"""Ports: the endpoints that are not a device.  Importing this package registers every kind."""

from emuiavf.ports import _tap
from emuiavf.ports._gen import Generator
from emuiavf.ports._null import Null
from emuiavf.ports._pcap import Pcap
from emuiavf.ports._verify import Verifier
from emuiavf.ports.registry import PortKind, kinds
from emuiavf.stats import PORT_ROWS

kinds["gen"] = PortKind(Generator.OPTIONS, Generator)
kinds["null"] = PortKind(Null.OPTIONS, Null)
kinds["pcap"] = PortKind(Pcap.OPTIONS, Pcap)
kinds["tap"] = PortKind(_tap.OPTIONS, _tap.create)
kinds["verify"] = PortKind(Verifier.OPTIONS, Verifier, (*PORT_ROWS, "verify-0"))
