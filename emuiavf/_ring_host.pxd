"""See _ring_host.pyx."""

from emuiavf._ring_tables cimport VfTables


cdef class VfHosted(VfTables):
    pass
