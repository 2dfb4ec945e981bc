"""What joins the engine: see _endpoint.pxd for the fields and who sets them."""

from libc.stdint cimport uint32_t

from emuiavf.datapath._frame cimport Source

from emuiavf.errors import ConfigError


cdef class SourceRef:
    @staticmethod
    cdef SourceRef of(Source *source, object owner, int index):
        cdef SourceRef ref = SourceRef.__new__(SourceRef)
        ref.source = source
        ref.owner = owner
        ref.index = index
        return ref

    def set_member(self, uint32_t member) -> None:
        """Tell the source its endpoint's number in the switch that it is part of."""
        self.source.member = member


cdef class Endpoint:
    def __cinit__(self, *args, **kwargs):
        self.name = ""
        self.sink = NULL
        self.poller = NULL
        self.promise = NULL
        self.polled = False
        self.rx_filter = None
        self.policy = None
        self.number = -1

    cpdef list active_sources(self):
        """The SourceRefs that have to be served now."""
        return []

    cpdef object set_policy(self, policy):
        """Keep to a policy.VfPolicy from the engine's next publish on; ConfigError for a port."""
        raise ConfigError(f"{self.name}: a port has no policy, only a VF does")
