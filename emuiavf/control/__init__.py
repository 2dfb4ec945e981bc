"""Host-side control of running VFs: JSON-RPC 2.0 over a UNIX socket, one table of methods."""
