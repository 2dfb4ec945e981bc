#!/usr/bin/env python3
"""Fetch QEMU, guest kernels and guest programs into a cache folder.

Everything comes as Debian packages from the mirror that this machine's own apt
sources name, of other suites where the machine's own is too old.  Nothing is
installed: packages are unpacked below the cache folder and their programs run
with the loader and libraries found there.  No root rights are needed.

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
import concurrent.futures
import fcntl
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time

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
# Dependencies that nothing run from the cache needs.
DROP = re.compile(
    r".*-dev|systemd.*|udev|lib(python3|systemd-shared|pam-|semanage|dpkg).*|python3.*"
    r"|perl.*|passwd|login.*|adduser|debconf|base-.*|dpkg.*|init-.*|media-types"
    r"|qemu-system-data-.*"
)
KERNELS = {
    "6.1": ("bookworm", "bookworm-security"),
    "6.12": ("trixie", "trixie-security"),
    "7": ("trixie-backports",),
}
IPXE_SUITES = ("trixie", "forky")
UEFI_SUITE = "trixie"
WRAPPED = ("iperf3", "zstd", "tcpdump", "ethtool", "ping")
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
ROOT_SKIP = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/lib/x86_64-linux-gnu/gconv",
    # other machines' QEMU and firmware
    "usr/bin/qemu-system-i386",
    "usr/bin/qemu-system-x86_64-microvm",
    "usr/share/qemu/*.dtb",
    "usr/share/qemu/hppa-*",
    "usr/share/qemu/openbios-*",
    "usr/share/qemu/palcode-*",
    "usr/share/qemu/s390-*",
    "usr/share/qemu/skiboot*",
    "usr/share/qemu/slof*",
    "usr/share/qemu/u-boot*",
    "usr/share/qemu/trace-events-all",
)
PKG = re.compile(r"^(linux-(image|binary|modules|base)-\d[^ ]*) \(= ([^)]+)\)$")

quiet = False


def say(text):
    if not quiet:
        print("fetch: " + text, file=sys.stderr, flush=True)


class Failed(SystemExit):
    """Ends the program with its text, where nobody catches it."""


def fail(text):
    raise Failed("fetch: " + text)


class Apt:
    """apt with lists and state of its own, and this machine's mirror."""

    def __init__(self, top, mirror=None, security=None):
        self.top = os.path.join(top, "apt")
        self.debs = os.path.join(top, "debs")
        self.mirror, self.security = mirror, security
        for name in ("lists/partial", "cache/archives/partial", "empty", "log"):
            os.makedirs(os.path.join(self.top, name), exist_ok=True)
        os.makedirs(os.path.join(self.debs, "partial"), exist_ok=True)
        open(os.path.join(self.top, "status"), "w").close()
        self.suites = None

    def find_mirror(self):
        """Take base addresses from the machine's own sources, whatever their form."""
        if self.mirror:
            return
        found = subprocess.run(
            [
                "apt-get",
                "indextargets",
                "--no-release-info",
                "--format",
                "$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
                "Created-By: Packages",
            ],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
        suites = {}
        for line in found.split("\n"):
            uri, _, rest = line.partition("|")
            release, _, component = rest.partition("|")
            if component == "main":
                suites.setdefault(uri, set()).add(release)
        # Other archives may use Debian's suite names, so the likeliest one is taken:
        # the one that also has the suite of updates, and a path called debian.
        names = {self.codename(), "stable", "oldstable", "testing", "unstable", "sid"} - {None}
        likely = {}
        for uri, releases in suites.items():
            if any(name + "-security" in releases for name in names):
                self.security = self.security or uri
            elif names & releases:
                likely[uri] = (
                    any(name + "-updates" in releases for name in names),
                    uri.rstrip("/").endswith("/debian"),
                )
        if likely:
            self.mirror = max(sorted(likely), key=likely.get)
        if not self.mirror:
            fail("this machine's apt sources name no Debian mirror; give --mirror")

    @staticmethod
    def codename():
        with open("/etc/os-release") as handle:
            match = re.search(r"^VERSION_CODENAME=\"?([a-z]+)", handle.read(), re.M)
        return match and match.group(1)

    def configure(self, suites):
        self.find_mirror()
        keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
        signed = " signed-by=" + keyring if os.path.exists(keyring) else ""
        lines = []
        for suite in sorted(suites):
            base = self.mirror
            if suite.endswith("-security"):
                if not self.security:
                    continue
                base = self.security
            lines.append(f"deb [arch=amd64{signed}] {base} {suite} main\n")
        with open(os.path.join(self.top, "sources.list"), "w") as handle:
            handle.writelines(lines)
        # Keep the machine's own ways to reach its mirror (proxies and such).
        own = subprocess.run(
            ["apt-config", "dump", "Acquire"], stdout=subprocess.PIPE, check=True, text=True
        ).stdout.split("\n")
        own = [
            line
            for line in own
            if not re.match(
                r"Acquire(::(IndexTargets|Languages|Changelogs|CompressionTypes|GzipIndexes).*)? ",
                line,
            )
        ]
        empty = os.path.join(self.top, "empty")
        with open(os.path.join(self.top, "apt.conf"), "w") as handle:
            handle.write("\n".join(own) + "\n")
            handle.write(f"""
Dir::Etc::main "/dev/null";
Dir::Etc::parts "{empty}";
Dir::Etc::sourcelist "{self.top}/sources.list";
Dir::Etc::sourceparts "{empty}";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{empty}";
Dir::State "{self.top}";
Dir::State::Lists "{self.top}/lists";
Dir::State::status "{self.top}/status";
Dir::Cache "{self.top}/cache";
Dir::Cache::archives "{self.debs}";
Dir::Log "{self.top}/log";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Dpkg::Use-Pty "false";
""")
        self.suites = set(suites)

    def run(self, *words, cwd=None):
        env = dict(
            os.environ,
            APT_CONFIG=os.path.join(self.top, "apt.conf"),
            LC_ALL="C",
            DEBIAN_FRONTEND="noninteractive",
        )
        done = subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True)
        if done.returncode:
            fail("{}\n{}{}".format(" ".join(words), done.stdout[-2000:], done.stderr[-2000:]))
        return done.stdout

    def update(self):
        self.run("apt-get", "update")

    def closure(self, names, target=TARGET):
        """Download packages with all that programs of theirs may load; returns the paths."""
        text = self.run("apt-get", "install", "-s", "-y", "-t", target, *names)
        wanted = []
        for line in text.split("\n"):
            match = re.match(r"Inst (\S+) \((\S+) .*\[(\S+)\]\)", line)
            if match and (match.group(1) in names or not DROP.fullmatch(match.group(1))):
                wanted.append(match.groups())
        missing = [
            f"{name}={version}"
            for name, version, arch in wanted
            if not os.path.exists(self.name(name, version, arch))
        ]
        if missing:
            self.run("apt-get", "download", *missing, cwd=self.debs)
        return [self.path(*item) for item in wanted]

    def name(self, name, version, arch):
        return os.path.join(
            self.debs, "{}_{}_{}.deb".format(name, version.replace(":", "%3a"), arch)
        )

    def path(self, name, version, arch=None):
        """The downloaded file of a package."""
        for one in (arch,) if arch else ("amd64", "all"):
            found = self.name(name, version, one)
            if os.path.exists(found):
                return found
        return fail(f"package {name} {version} was not downloaded")

    def madison(self, name, suites):
        """The newest version of a package in the suites given."""
        best = None
        for line in self.run("apt-cache", "madison", name).split("\n"):
            fields = [field.strip() for field in line.split("|")]
            if (
                len(fields) == 3
                and fields[2].split()[1].split("/")[0] in suites
                and (
                    best is None
                    or subprocess.run(
                        ["dpkg", "--compare-versions", fields[1], "gt", best]
                    ).returncode
                    == 0
                )
            ):
                best = fields[1]
        return best

    def depends(self, name, version):
        for line in self.run("apt-cache", "show", f"{name}={version}").split("\n"):
            if line.startswith("Depends:"):
                return [item.strip() for item in line[8:].split(",")]
        return []

    def download(self, name, version):
        # "apt-get download" writes where it stands.
        if not any(os.path.exists(self.name(name, version, arch)) for arch in ("amd64", "all")):
            self.run("apt-get", "download", f"{name}={version}", cwd=self.debs)
        return self.path(name, version)


def digest(path):
    value = hashlib.sha256()
    with open(path, "rb") as handle:
        while True:
            block = handle.read(1 << 20)
            if not block:
                return value.hexdigest()
            value.update(block)


def record(path):
    base = os.path.basename(path)[:-4]
    name, version, _arch = base.split("_")
    return {
        "package": name,
        "version": version.replace("%3a", ":"),
        "bytes": os.path.getsize(path),
        "sha256": digest(path),
    }


def unpack_root(debs, root):
    os.makedirs(root, exist_ok=True)

    def one(deb):
        command = ["tar", "-x", "-C", root, "--no-same-owner"]
        command += ["--exclude=./" + name for name in ROOT_SKIP]
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE
        ) as source:
            done = subprocess.run(command, stdin=source.stdout)
        if source.returncode or done.returncode:
            fail("cannot unpack " + deb)

    # Big ones first, so that no core waits at the end.
    debs = sorted(debs, key=os.path.getsize, reverse=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(one, debs))


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


def unpack_files(deb, pattern, folder):
    """Keep the plain files of a package whose paths the pattern finds, in one folder."""
    partial = folder + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as source:
        with tarfile.open(fileobj=source.stdout, mode="r|") as archive:
            for item in archive:
                if item.isfile() and re.search(pattern, "/" + item.name):
                    path = os.path.join(partial, os.path.basename(item.name))
                    with open(path, "wb") as handle:
                        shutil.copyfileobj(archive.extractfile(item), handle)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)


def unpack_kernel(debs, folder, zstd):
    """Keep the image, the configuration and the modules a network guest may want."""
    partial = folder + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(os.path.join(partial, "modules"))
    release = None
    for deb in debs:
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE
        ) as source:
            with tarfile.open(fileobj=source.stdout, mode="r|") as archive:
                for item in archive:
                    if not item.isfile():
                        continue
                    name = item.name[2:] if item.name.startswith("./") else item.name
                    name = re.sub(r"^usr/", "", name)
                    target = None
                    match = re.match(
                        r"(?:boot/(vmlinuz|config)-(.+)"
                        r"|lib/modules/([^/]+)/(.+))$",
                        name,
                    )
                    if not match:
                        continue
                    boot, boot_release, module_release, rest = match.groups()
                    if boot:
                        target = boot
                    elif rest in ("vmlinuz", "config"):
                        target = rest
                    elif rest in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
                        target = "modules/" + rest
                    elif rest.startswith("kernel/"):
                        inner = rest[len("kernel/") :]
                        if any(inner.startswith(top + "/") for top in MODULE_FOLDERS) and not any(
                            inner.startswith(top + "/") for top in MODULE_SKIP
                        ):
                            target = "modules/" + rest
                    release = boot_release or module_release or release
                    if target:
                        path = os.path.join(partial, target)
                        os.makedirs(os.path.dirname(path), exist_ok=True)
                        with open(path, "wb") as handle:
                            shutil.copyfileobj(archive.extractfile(item), handle)
        if source.returncode:
            fail("cannot unpack " + deb)
    image = os.path.join(partial, "vmlinuz")
    if not os.path.exists(image):
        fail("no vmlinuz in {}".format(" ".join(os.path.basename(deb) for deb in debs)))
    unpack_image(image, os.path.join(partial, "vmlinux"), zstd)
    with open(os.path.join(partial, "kernel.json"), "w") as handle:
        json.dump(
            {"release": release, "packages": [os.path.basename(deb) for deb in debs]},
            handle,
            indent=1,
        )
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)
    return release


def unpack_image(image, output, zstd):
    """Take the ELF kernel out of a bzImage, as its setup header describes it."""
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
        say("the kernel's compression is not known: no vmlinux, use vmlinuz")
        return
    if plain[:4] != b"\x7fELF":
        fail(f"{image} holds no ELF kernel")
    with open(output, "wb") as handle:
        handle.write(plain)


def main():
    global quiet
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
    args = parser.parse_args()
    quiet = args.quiet
    began = time.monotonic()
    top = os.path.abspath(args.cache)
    os.makedirs(top, exist_ok=True)
    lock = open(os.path.join(top, ".lock"), "w")
    fcntl.flock(lock, fcntl.LOCK_EX)

    manifest = {"form": FORM, "programs": {"wishes": [], "packages": []}, "kernels": {}, "ipxe": {}}
    path = os.path.join(top, "manifest.json")
    if os.path.exists(path):
        with open(path) as handle:
            old = json.load(handle)
        if old.get("form") == FORM:
            manifest = old
    before = json.dumps(manifest, sort_keys=True)

    def save():
        with open(path + ".new", "w") as handle:
            json.dump(manifest, handle, indent=1, sort_keys=True)
            handle.write("\n")
        os.replace(path + ".new", path)

    wishes = QEMU + GUEST + (DPDK if args.dpdk else []) + args.packages.split()
    kernels = {}
    for label in filter(None, args.kernels.split(",")):
        label, _, suite = label.partition("=")
        if suite:
            kernels[label] = (suite,)
        elif label in KERNELS:
            kernels[label] = KERNELS[label]
        else:
            fail("kernel {}: known are {}".format(label, " ".join(KERNELS)))
    have = set(manifest["programs"]["wishes"])
    programs = args.refresh or not set(wishes) <= have or not os.path.isdir(top + "/root/usr")
    todo = {
        label: suites
        for label, suites in kernels.items()
        if args.refresh
        or label not in manifest["kernels"]
        or not os.path.exists(os.path.join(top, "kernels", label, "kernel.json"))
    }
    ipxe = [
        suite
        for suite in (IPXE_SUITES if args.ipxe else ())
        if args.refresh or suite not in manifest["ipxe"]
    ]
    uefi = args.ipxe and (args.refresh or not os.path.isdir(os.path.join(top, "uefi")))
    if not (programs or todo or ipxe or uefi):
        say(f"all there, nothing to do ({top})")
        return

    suites = {*ipxe, UEFI_SUITE} if uefi else set(ipxe)
    if programs:
        suites.update(PROGRAM_SUITES)
    for wanted in todo.values():
        suites.update(wanted)
    apt = Apt(top, args.mirror)
    apt.configure(suites)
    say("mirror {}, suites {}".format(apt.mirror, " ".join(sorted(suites))))
    apt.update()
    say("%5.1f s  package lists" % (time.monotonic() - began))

    if programs:
        wishes = sorted(have | set(wishes))
        debs = apt.closure(wishes)
        size = sum(os.path.getsize(deb) for deb in debs)
        say("%5.1f s  %d packages, %.1f MB" % (time.monotonic() - began, len(debs), size / 1e6))
        root = os.path.join(top, "root")
        shutil.rmtree(root + ".partial", ignore_errors=True)
        unpack_root(debs, root + ".partial")
        shutil.rmtree(root, ignore_errors=True)
        os.rename(root + ".partial", root)
        wrapper(
            top,
            "qemu-system-x86_64",
            "bin/qemu-system-x86_64",
            '-L "$here/share/qemu" -L "$here/share/seabios" ',
        )
        for name in WRAPPED:
            for folder in ("bin", "sbin"):
                if os.path.exists(os.path.join(root, "usr", folder, name)):
                    wrapper(top, name, folder + "/" + name)
        manifest["programs"] = {"wishes": wishes, "packages": [record(deb) for deb in debs]}
        save()
        say("%5.1f s  unpacked" % (time.monotonic() - began))

    zstd = os.path.join(top, "bin", "zstd")
    for label, wanted in todo.items():
        version = apt.madison("linux-image-amd64", wanted)
        if not version:
            fail("no kernel in suite {}".format(" ".join(wanted)))
        debs, queue = [], [("linux-image-amd64", version)]
        seen = set()
        while queue:
            name, version = queue.pop(0)
            for item in apt.depends(name, version):
                match = PKG.match(item)
                if match and match.group(1) not in seen:
                    seen.add(match.group(1))
                    queue.append((match.group(1), match.group(3)))
                    debs.append(apt.download(match.group(1), match.group(3)))
        folder = os.path.join(top, "kernels", label)
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        release = unpack_kernel(debs, folder, zstd)
        manifest["kernels"][label] = [record(deb) for deb in debs]
        save()
        size = sum(map(os.path.getsize, debs)) / 1e6
        say(f"{time.monotonic() - began:5.1f} s  kernel {label}: {release}, {size:.1f} MB")

    for suite in ipxe:
        version = apt.madison("ipxe", (suite,))
        if not version:
            fail("no ipxe in suite " + suite)
        deb = apt.download("ipxe", version)
        folder = os.path.join(top, "ipxe", suite)
        unpack_files(deb, r"/(lib/ipxe|boot)/[^/]*ipxe[^/]*$", folder)
        manifest["ipxe"][suite] = [record(deb)]
        save()
        say(f"{time.monotonic() - began:5.1f} s  ipxe of {suite}: {version}")

    if uefi:
        version = apt.madison("ovmf", (UEFI_SUITE,))
        if not version:
            fail("no ovmf in suite " + UEFI_SUITE)
        deb = apt.download("ovmf", version)
        unpack_files(deb, r"/OVMF/OVMF_(CODE|VARS)_4M\.fd$", os.path.join(top, "uefi"))
        manifest["uefi"] = [record(deb)]
        save()
        say(f"{time.monotonic() - began:5.1f} s  ovmf: {version}")

    if json.dumps(manifest, sort_keys=True) == before:
        save()
    if args.tidy:
        shutil.rmtree(apt.top)
        shutil.rmtree(apt.debs)
    say("%5.1f s  done" % (time.monotonic() - began))


if __name__ == "__main__":
    main()
