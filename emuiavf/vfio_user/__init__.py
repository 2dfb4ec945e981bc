"""vfio-user, server and client, for any PCI device; knows none by name."""
