"""What the tests with a real QEMU stand on: packages, guests, namespaces, the backend process."""
