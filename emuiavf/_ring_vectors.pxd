"""See _ring_vectors.pyx."""

from emuiavf._ring_base cimport VfBase


cdef class VfVectors(VfBase):
    # Nothing is mapped and the registers are 0.
    cdef void _forget_vectors(self)
