#!/usr/bin/env python3
"""Fetch QEMU, guest kernels and guest programs into a cache folder.

Everything comes as Debian packages, see bench/debian.py.  Programs run with the
loader and libraries found in the cache folder.

  CACHE/bin/             wrappers: qemu-system-x86_64 (has vfio-user-pci), iperf3, zstd, ...
  CACHE/root/            the unpacked packages of QEMU and of the guest's programs
  CACHE/kernels/LABEL/   vmlinuz, vmlinux (unpacked, boots faster), config, modules/, kernel.json
  CACHE/ipxe/SUITE/      ipxe.lkrn and the others, with --ipxe
  CACHE/uefi/            OVMF, with --ipxe
  CACHE/manifest.json    the packages used, with version and SHA-256
  CACHE/apt, CACHE/debs  apt's lists and the downloaded packages (see --tidy)

A second run with the same wishes does nothing and needs no network; a run with
more wishes adds them.  --refresh looks for newer packages.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass

from bench.debian import Apt, fail, plain_files, record, unpack
from tests.vm.harness.kernel import unpack_kernel

FORM = 3  # of the cache; a cache of another form is rebuilt
PROGRAM_SUITES = ("trixie", "trixie-backports")
TARGET = "trixie-backports"  # where QEMU comes from; libraries come from the first that has them
QEMU = ["qemu-system-x86"]
GUEST = [
    "busybox-static",
    "dash",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "pciutils",
    "tcpdump",
    "zstd",
]
DPDK = [
    "dpdk-dev",
    "librte-mempool-ring25",
    "librte-net-e1000-25",
    "librte-net-iavf25",
    "librte-net-virtio25",
]
KERNELS = {
    "6.1": ("bookworm", "bookworm-security"),
    "6.12": ("trixie", "trixie-security"),
    "7": ("trixie-backports",),
}
KERNEL = "linux-image-amd64"  # depends on the kernel of the day
KERNEL_PACKAGE = re.compile(r"^(linux-(?:image|binary|modules|base)-\d[^ ]*) \(= ([^)]+)\)$")
IPXE_SUITES = ("trixie", "forky")
IPXE_FILES = r"/(lib/ipxe|boot)/[^/]*ipxe[^/]*$"
UEFI_SUITE = "trixie"
UEFI_FILES = r"/OVMF/OVMF_(CODE|VARS)_4M\.fd$"
WRAPPED = ("iperf3", "zstd", "tcpdump", "ethtool", "ping")


class Cache:
    """The folder, locked against other runs, and the manifest of what it holds."""

    def __init__(self, top, quiet):
        self.began = time.monotonic()
        self.quiet = quiet
        self.top = os.path.abspath(top)
        os.makedirs(self.top, exist_ok=True)
        self.lock = open(self.path(".lock"), "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.manifest = {
            "form": FORM,
            "programs": {"wishes": [], "packages": []},
            "kernels": {},
            "ipxe": {},
        }
        if os.path.exists(self.path("manifest.json")):
            with open(self.path("manifest.json")) as handle:
                old = json.load(handle)
            if old.get("form") == FORM:
                self.manifest = old

    def path(self, *names):
        return os.path.join(self.top, *names)

    def save(self):
        path = self.path("manifest.json")
        with open(path + ".new", "w") as handle:
            json.dump(self.manifest, handle, indent=1, sort_keys=True)
            handle.write("\n")
        os.replace(path + ".new", path)

    def say(self, text):
        if not self.quiet:
            print("fetch: " + text, file=sys.stderr, flush=True)

    def done(self, text):
        self.say(f"{time.monotonic() - self.began:5.1f} s  {text}")


@dataclass
class Wanted:
    """What a run has to fetch: `programs` are all that the cache shall have, or empty."""

    programs: list
    kernels: dict
    ipxe: list
    uefi: bool

    def suites(self):
        found = set(self.ipxe)
        if self.uefi:
            found.add(UEFI_SUITE)
        if self.programs:
            found.update(PROGRAM_SUITES)
        for suites in self.kernels.values():
            found.update(suites)
        return found


def kernels_named(words):
    """The suites of each kernel of a list of labels and of LABEL=SUITE."""
    kernels = {}
    for word in filter(None, words.split(",")):
        label, _, suite = word.partition("=")
        if suite:
            kernels[label] = (suite,)
        elif label in KERNELS:
            kernels[label] = KERNELS[label]
        else:
            fail("kernel {}: known are {}".format(label, " ".join(KERNELS)))
    return kernels


def missing(cache, args):
    """What the cache has not got yet, or not new enough."""
    wishes = {*QEMU, *GUEST, *(DPDK if args.dpdk else []), *args.packages.split()}
    have = set(cache.manifest["programs"]["wishes"])
    all_there = wishes <= have and os.path.isdir(cache.path("root", "usr"))
    return Wanted(
        programs=[] if all_there and not args.refresh else sorted(have | wishes),
        kernels={
            label: suites
            for label, suites in kernels_named(args.kernels).items()
            if args.refresh
            or label not in cache.manifest["kernels"]
            or not os.path.exists(cache.path("kernels", label, "kernel.json"))
        },
        ipxe=[
            suite
            for suite in (IPXE_SUITES if args.ipxe else ())
            if args.refresh or suite not in cache.manifest["ipxe"]
        ],
        uefi=args.ipxe and (args.refresh or not os.path.isdir(cache.path("uefi"))),
    )


def wrapper(top, name, program, before=""):
    path = os.path.join(top, "bin", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as handle:
        handle.write(
            """#!/bin/sh
# Runs {program} of this cache with the loader and libraries of this cache.
here=$(dirname "$(dirname "$(readlink -f "$0")")")/root/usr
lib=$here/lib/x86_64-linux-gnu
{before}exec "$here/lib64/ld-linux-x86-64.so.2" --library-path "$lib" --argv0 {name} \\
    "$here/{program}" {args}"$@"
""".format(
                program=program,
                name=name,
                before="export QEMU_MODULE_DIR=$lib/qemu\n" if before else "",
                args=before,
            )
        )
    os.chmod(path, 0o755)
    return path


def fetch_programs(cache, apt, wishes):
    debs = apt.closure(wishes, TARGET)
    size = sum(os.path.getsize(deb) for deb in debs)
    cache.done(f"{len(debs)} packages, {size / 1e6:.1f} MB")
    root = cache.path("root")
    shutil.rmtree(root + ".partial", ignore_errors=True)
    unpack(debs, root + ".partial")
    shutil.rmtree(root, ignore_errors=True)
    os.rename(root + ".partial", root)
    wrapper(
        cache.top,
        "qemu-system-x86_64",
        "bin/qemu-system-x86_64",
        '-L "$here/share/qemu" -L "$here/share/seabios" ',
    )
    for name in WRAPPED:
        for folder in ("bin", "sbin"):
            if os.path.exists(os.path.join(root, "usr", folder, name)):
                wrapper(cache.top, name, folder + "/" + name)
    cache.manifest["programs"] = {"wishes": wishes, "packages": [record(deb) for deb in debs]}
    cache.save()
    cache.done("unpacked")


def newest(apt, name, suites):
    version = apt.madison(name, suites)
    if not version:
        fail("no {} in suite {}".format(name, " ".join(suites)))
    return version


def fetch_kernel(cache, apt, label, suites):
    debs, queue = [], [(KERNEL, newest(apt, KERNEL, suites))]
    seen = set()
    while queue:
        for item in apt.depends(*queue.pop(0)):
            match = KERNEL_PACKAGE.match(item)
            if match and match.group(1) not in seen:
                seen.add(match.group(1))
                queue.append(match.groups())
                debs.append(apt.download(*match.groups()))
    folder = cache.path("kernels", label)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    release = unpack_kernel(debs, folder, cache.path("bin", "zstd"))
    if not os.path.exists(os.path.join(folder, "vmlinux")):
        cache.say("the kernel's compression is not known: no vmlinux, use vmlinuz")
    cache.manifest["kernels"][label] = [record(deb) for deb in debs]
    cache.save()
    size = sum(map(os.path.getsize, debs)) / 1e6
    cache.done(f"kernel {label}: {release}, {size:.1f} MB")


def fetch_files(cache, apt, name, suite, pattern, folder):
    """Keep the files of a package whose paths the pattern finds; returns its record."""
    version = newest(apt, name, (suite,))
    deb = apt.download(name, version)
    partial = folder + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    for path, content in plain_files(deb):
        if re.search(pattern, "/" + path):
            with open(os.path.join(partial, os.path.basename(path)), "wb") as handle:
                shutil.copyfileobj(content, handle)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)
    cache.done(f"{name} of {suite}: {version}")
    return [record(deb)]


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", help="folder to fill; a name that stays the same is best")
    parser.add_argument(
        "--kernels",
        default="6.12",
        metavar="LIST",
        help="labels, with commas: {}, or LABEL=SUITE for that suite's kernel "
        "(default: %(default)s)".format(", ".join(KERNELS)),
    )
    parser.add_argument(
        "--ipxe",
        action="store_true",
        help="also OVMF, and iPXE of the suites " + " ".join(IPXE_SUITES),
    )
    parser.add_argument("--dpdk", action="store_true", help="also DPDK's programs and drivers")
    parser.add_argument(
        "--packages", default="", metavar="LIST", help="more packages for CACHE/root, with spaces"
    )
    parser.add_argument(
        "--mirror",
        help="base address of a Debian mirror (default: the one of this machine's apt sources)",
    )
    parser.add_argument("--refresh", action="store_true", help="look for newer packages")
    parser.add_argument(
        "--tidy",
        action="store_true",
        help="drop apt's lists and the downloaded packages at the end",
    )
    parser.add_argument("-q", "--quiet", action="store_true")
    return parser.parse_args()


def main():
    args = arguments()
    cache = Cache(args.cache, args.quiet)
    wanted = missing(cache, args)
    suites = wanted.suites()
    if not suites:
        cache.say(f"all there, nothing to do ({cache.top})")
        return
    apt = Apt(cache.top, args.mirror)
    apt.configure(suites)
    cache.say("mirror {}, suites {}".format(apt.mirror, " ".join(sorted(suites))))
    apt.update()
    cache.done("package lists")
    if wanted.programs:
        fetch_programs(cache, apt, wanted.programs)
    for label, kernel_suites in wanted.kernels.items():
        fetch_kernel(cache, apt, label, kernel_suites)
    for suite in wanted.ipxe:
        folder = cache.path("ipxe", suite)
        found = fetch_files(cache, apt, "ipxe", suite, IPXE_FILES, folder)
        cache.manifest["ipxe"][suite] = found
        cache.save()
    if wanted.uefi:
        folder = cache.path("uefi")
        cache.manifest["uefi"] = fetch_files(cache, apt, "ovmf", UEFI_SUITE, UEFI_FILES, folder)
        cache.save()
    if args.tidy:
        apt.tidy()
    cache.done("done")


if __name__ == "__main__":
    main()
