"""See _eventfd.pyx."""


# Add 1 to an eventfd, whoever else has it.  Never waits; what cannot be added is lost.
cdef void event_signal_foreign(int fd) noexcept nogil
