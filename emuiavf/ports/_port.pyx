"""Base of the ports: see _port.pxd.  Knows nothing of where frames go."""

from libc.stdint cimport uint64_t

import numpy as np


cdef class Port(Endpoint):
    """What is at the other end of a VF.

    `rows`: two rows of 16 counters, [0] for frames that come to the port (RX_COUNTERS of
    `emuiavf.stats`) and [1] for those it brings in (TX_COUNTERS); None: rows of its own.
    """

    def __init__(self, str name, rows=None):
        cdef uint64_t[:, ::1] view
        if rows is None:
            rows = np.zeros((2, ROW_COUNTERS), np.uint64)
        view = rows
        if view.shape[0] < 2 or view.shape[1] != ROW_COUNTERS:
            raise ValueError(f"{name}: counter rows of shape {rows.shape}")
        self.name = name
        self._rows = rows
        self.rx_row = &view[0, 0]
        self.tx_row = &view[1, 0]

    @property
    def rows(self):
        """The counters: [0] to the port, [1] from it."""
        return self._rows

    def close(self):
        """Give back what the port holds; to be called when no worker uses it any more."""
