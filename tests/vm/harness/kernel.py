"""A guest's kernel out of its Debian packages: image, configuration and modules."""

import gzip
import json
import lzma
import os
import re
import shutil
import subprocess

from bench.debian import fail, plain_files

# Folders of kernel/ worth keeping: all a network guest may load.
MODULE_FOLDERS = (
    "arch/x86/crypto",
    "crypto",
    "drivers/dca",
    "drivers/i2c",
    "drivers/iommu",
    "drivers/char/hw_random",
    "drivers/net",
    "drivers/pci",
    "drivers/pps",
    "drivers/ptp",
    "drivers/uio",
    "drivers/vfio",
    "drivers/virtio",
    "fs/9p",
    "fs/fuse",
    "fs/netfs",
    "fs/fscache",
    "lib",
    "net",
    "virt",
)
MODULE_SKIP = ("drivers/net/wireless", "net/bluetooth", "net/mac80211", "net/wireless")
MODULE_LISTS = ("modules.builtin", "modules.order", "modules.builtin.modinfo")
KERNEL_FILE = re.compile(r"(?:usr/)?(?:boot/(vmlinuz|config)-(.+)|lib/modules/([^/]+)/(.+))")


def lies_in(path, folders):
    return any(path.startswith(folder + "/") for folder in folders)


def place(name):
    """The release that a file of a package belongs to, and where to keep it, None for nowhere."""
    match = KERNEL_FILE.fullmatch(name)
    if not match:
        return None, None
    boot, boot_release, module_release, rest = match.groups()
    if boot:
        return boot_release, boot
    target = None
    if rest in ("vmlinuz", "config"):
        target = rest
    elif rest in MODULE_LISTS:
        target = "modules/" + rest
    elif rest.startswith("kernel/"):
        inner = rest[len("kernel/") :]
        if lies_in(inner, MODULE_FOLDERS) and not lies_in(inner, MODULE_SKIP):
            target = "modules/" + rest
    return module_release, target


def unpack_kernel(debs, folder, zstd):
    """Keep what a network guest may want, and the image unpacked, as far as that can be done;
    returns the kernel's release."""
    partial = folder + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(os.path.join(partial, "modules"))
    release = None
    for deb in debs:
        for name, content in plain_files(deb):
            found, target = place(name)
            release = found or release
            if target:
                path = os.path.join(partial, target)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as handle:
                    shutil.copyfileobj(content, handle)
    image = os.path.join(partial, "vmlinuz")
    names = [os.path.basename(deb) for deb in debs]
    if not os.path.exists(image):
        fail("no vmlinuz in {}".format(" ".join(names)))
    unpack_image(image, os.path.join(partial, "vmlinux"), zstd)
    with open(os.path.join(partial, "kernel.json"), "w") as handle:
        json.dump({"release": release, "packages": names}, handle, indent=1)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)
    return release


def unpack_image(image, output, zstd):
    """Take the ELF kernel out of a bzImage, as its setup header describes it; where its
    compression is not known there is no output, and the image has to do."""
    with open(image, "rb") as handle:
        data = handle.read()
    if data[0x202:0x206] != b"HdrS" and data[0x202:0x204] != b"Hd":
        fail(f"{image} is no bzImage")
    sectors = data[0x1F1] or 4
    offset = int.from_bytes(data[0x248:0x24C], "little")
    length = int.from_bytes(data[0x24C:0x250], "little")
    start = (sectors + 1) * 512 + offset
    payload = data[start : start + length]
    if payload[:6] == b"\xfd7zXZ\0":
        plain = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    elif payload[:2] == b"\x1f\x8b":
        plain = gzip.decompress(payload)
    elif payload[:4] == b"\x28\xb5\x2f\xfd":
        # The last four bytes are the unpacked size, no part of the frame.
        plain = subprocess.run(
            [zstd, "-dc"], input=payload[:-4], stdout=subprocess.PIPE, check=True
        ).stdout
    else:
        return
    if plain[:4] != b"\x7fELF":
        fail(f"{image} holds no ELF kernel")
    with open(output, "wb") as handle:
        handle.write(plain)
