"""Ports: the endpoints that are not a device.  Importing this package registers every kind."""
