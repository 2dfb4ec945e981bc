"""Shows the enums of _ring_state.pxd to Python."""
