#!/usr/bin/env python3
"""Build a small guest initramfs from a cache folder that fetch-vm filled.

The archive holds a static busybox, the chosen Debian programs with the shared
libraries they need, the chosen kernel modules with the modules those depend
on, a modules.dep and modules.alias that cover exactly these, and an /init that
serves a command shell on a serial port.  It is written directly as a cpio
archive: no root rights, no cpio, depmod or ldd are needed.

The guest's /init:
  * mounts /proc, /sys, /dev, /dev/pts, /dev/hugepages, /tmp, /run, brings up lo;
  * loads the modules named by the kernel command line word  vm.load=a,b,c ;
  * runs /etc/vm.rc when the archive has one (see --rc);
  * serves a shell on the port named by  vm.port=ttyS1  (default ttyS0),
    without echo, announced by a line  VM-READY <seconds since kernel start> ;
  * powers the machine off when that shell ends.
"""

import argparse
import gzip
import hashlib
import json
import lzma
import os
import re
import stat
import struct
import subprocess
import sys

DEFAULT_MODULES = (
    "iavf e1000e igb virtio_net virtio_pci 8021q bonding bridge macvlan "
    "sch_ingress cls_u32 act_gact act_pedit act_skbedit "
    "vfio-pci vfio_iommu_type1 uio_pci_generic pci-stub "
    "vxlan geneve ip_gre ip6_gre ipip sit ip6_tunnel"
)
DEFAULT_PROGRAMS = "ip tc ss bridge nstat ping ethtool iperf3 lspci setpci tcpdump"
LIBDIRS = ("usr/lib/x86_64-linux-gnu", "usr/lib")

INIT = r"""#!/usr/bin/busybox sh
/usr/bin/busybox --install -s /usr/bin
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb LANG=C NO_COLOR=1
chmod 755 /
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/hugepages /run /tmp
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t hugetlbfs hugetlbfs /dev/hugepages 2>/dev/null
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
port=ttyS0
for word in $(cat /proc/cmdline); do
    case $word in
        vm.port=*) port=${word#*=} ;;
        vm.load=*) load=$(echo "${word#*=}" | tr , ' ') ;;
        vm.hostname=*) hostname "${word#*=}" ;;
    esac
done
ip link set lo up
for module in $load; do modprobe "$module" || echo "VM-MODPROBE-FAILED $module"; done
[ -f /etc/vm.rc ] && . /etc/vm.rc
# dash, since busybox's shell prefers its own ip, tc and so on over those of PATH.
# It reads this file first.
cat > /run/shell <<'END'
stty -echo -onlcr cols 500
PS1= PS2= ENV=
echo "VM-READY $(cut -d' ' -f1 /proc/uptime) $(uname -r)"
END
export ENV=/run/shell
setsid dash -c "exec dash -i <>/dev/$port >&0 2>&0"
sync
poweroff -f
"""


class Cpio:
    """Writer of the kernel's "newc" archive form."""

    def __init__(self):
        self.parts = []
        self.dirs = set()
        self.names = set()
        self.inode = 0

    def add(self, name, mode, data=b"", rdev=(0, 0)):
        name = name.strip("/")
        if name in self.names:
            return
        parent = os.path.dirname(name)
        if parent and parent not in self.dirs:
            self.mkdir(parent)
        self.names.add(name)
        self._put(name, mode, data, rdev)

    def _put(self, name, mode, data, rdev=(0, 0)):
        self.inode += 1
        raw = name.encode() + b"\0"
        head = "070701" + "".join(
            f"{v:08X}"
            for v in (
                self.inode,
                mode,
                0,
                0,
                2 if stat.S_ISDIR(mode) else 1,
                0,
                len(data),
                0,
                0,
                rdev[0],
                rdev[1],
                len(raw),
                0,
            )
        )
        block = head.encode() + raw
        block += b"\0" * (-len(block) % 4)
        block += data + b"\0" * (-len(data) % 4)
        self.parts.append(block)

    def mkdir(self, name):
        path = ""
        for step in name.strip("/").split("/"):
            path = path + "/" + step if path else step
            if path not in self.dirs:
                self.dirs.add(path)
                self.names.add(path)
                self._put(path, stat.S_IFDIR | 0o755, b"")

    def file(self, name, data, mode=0o644):
        self.add(name, stat.S_IFREG | mode, data)

    def link(self, name, target):
        self.add(name, stat.S_IFLNK | 0o777, target.encode())

    def bytes(self):
        self._put("TRAILER!!!", 0, b"")
        data = b"".join(self.parts)
        return data + b"\0" * (-len(data) % 512)


def sections(data):
    """The sections of a 64-bit little-endian ELF file, by name."""
    (shoff,) = struct.unpack_from("<Q", data, 0x28)
    shentsize, shnum, shstrndx = struct.unpack_from("<HHH", data, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", data, shoff + i * shentsize) for i in range(shnum)]
    names = heads[shstrndx][4]
    out = {}
    for name, _type, _flags, _addr, offset, size in heads:
        end = data.index(b"\0", names + name)
        out[data[names + name : end].decode()] = (offset, size)
    return out


def needed(data):
    """The DT_NEEDED library names and the interpreter of an ELF program."""
    if data[:5] != b"\x7fELF\x02":
        return [], None
    sec = sections(data)
    interp = None
    if ".interp" in sec:
        offset, size = sec[".interp"]
        interp = data[offset : offset + size].rstrip(b"\0").decode()
    libs = []
    if ".dynamic" in sec:
        offset, size = sec[".dynamic"]
        strings = sec[".dynstr"][0]
        for at in range(offset, offset + size, 16):
            tag, value = struct.unpack_from("<qQ", data, at)
            if tag == 0:
                break
            if tag == 1:
                end = data.index(b"\0", strings + value)
                libs.append(data[strings + value : end].decode())
    return libs, interp


def modinfo(data):
    """The fields of a kernel module's .modinfo section."""
    offset, size = sections(data)[".modinfo"]
    out = {}
    for item in data[offset : offset + size].split(b"\0"):
        key, eq, value = item.partition(b"=")
        if eq:
            out.setdefault(key.decode(), []).append(value.decode("latin-1"))
    return out


def module_name(path):
    base = os.path.basename(path)
    return re.sub(r"\.ko(\.xz|\.gz|\.zst)?$", "", base).replace("-", "_")


class Root:
    """Files of the extracted Debian packages, in folders; the first that has one counts."""

    def __init__(self, *tops):
        self.tops = tops

    def place(self, path):
        """Where a path, or a link of that name, is on this machine."""
        places = [os.path.join(top, path) for top in self.tops]
        return next((place for place in places if os.path.lexists(place)), places[0])

    def chain(self, path):
        """The links that lead from a path to a file, as (path, target), and the file's path."""
        path = os.path.normpath(path.lstrip("/"))
        links = []
        for _ in range(20):
            full = self.place(path)
            if not os.path.islink(full):
                return links, path if os.path.exists(full) else None
            target = os.readlink(full)
            links.append((path, target))
            path = os.path.normpath(
                target.lstrip("/")
                if target.startswith("/")
                else os.path.join(os.path.dirname(path), target)
            )
        return links, None

    def resolve(self, path):
        """The place on this machine of a path's file, following links there, or None."""
        path = self.chain(path)[1]
        return path and self.place(path)

    def program(self, name):
        """The path of a program given by name or by path, or None."""
        places = [name] if "/" in name else ["usr/bin/" + name, "usr/sbin/" + name]
        for place in places:
            if self.resolve(place):
                return place.lstrip("/")
        return None


def add_program(cpio, root, path, target, done):
    """Add a program or library of this machine and, once each, what it is linked with."""
    with open(path, "rb") as handle:
        data = handle.read()
    cpio.file(target, data, os.stat(path).st_mode & 0o777)
    libs, interp = needed(data)
    if interp and interp not in done:
        done.add(interp)
        add_path(cpio, root, "usr/" + interp.lstrip("/"), done)
    for lib in libs:
        if lib in done:
            continue
        done.add(lib)
        for folder in LIBDIRS:
            if root.resolve(os.path.join(folder, lib)):
                add_path(cpio, root, os.path.join(folder, lib), done)
                break
        else:
            raise SystemExit(f"initramfs: {target} needs {lib}, which the cache lacks")


def add_path(cpio, root, path, done):
    """Add a file of the cache's packages at its own path, with the links that lead to it.

    A file reached by two names stays one file: DPDK's drivers would otherwise
    be loaded twice.
    """
    links, real = root.chain(path)
    if not real:
        raise SystemExit(f"initramfs: no {path} in the cache")
    for link, target in links:
        cpio.link(link, target)
    if real not in cpio.names:
        add_program(cpio, root, root.place(real), real, done)


def load_module(path, zstd):
    with open(path, "rb") as handle:
        data = handle.read()
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".gz"):
        return gzip.decompress(data)
    if path.endswith(".zst"):
        return subprocess.run([zstd, "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


def add_modules(cpio, folder, release, wanted, zstd):
    """Add the wanted modules and their dependencies; returns what was added."""
    index = {}
    for top, _dirs, files in os.walk(os.path.join(folder, "kernel")):
        for name in files:
            if ".ko" in name:
                index[module_name(name)] = os.path.join(top, name)
    builtin = set()
    path = os.path.join(folder, "modules.builtin")
    if os.path.exists(path):
        with open(path) as handle:
            builtin = {module_name(line.strip()) for line in handle}
    base = f"usr/lib/modules/{release}"
    depends, where, aliases = {}, {}, []
    missing = []

    def visit(name, optional):
        name = name.replace("-", "_")
        if name in depends or name in builtin:
            return
        if name not in index:
            if not optional:
                missing.append(name)
            return
        data = load_module(index[name], zstd)
        info = modinfo(data)
        deps = [d.replace("-", "_") for d in ",".join(info.get("depends", [])).split(",") if d]
        depends[name] = deps
        where[name] = "kernel/" + name + ".ko"
        cpio.file(f"{base}/kernel/{name}.ko", data)
        for alias in info.get("alias", []):
            aliases.append((alias, name))
        for dep in deps:
            visit(dep, False)

    for name in wanted:
        visit(name.lstrip("?"), name.startswith("?"))
    if missing:
        raise SystemExit("initramfs: kernel {} has no module {}".format(release, " ".join(missing)))

    def closure(name, seen):
        """Dependencies before what depends on them, without the module itself."""
        for dep in depends[name]:
            if dep in depends and dep not in seen:
                closure(dep, seen)
                seen.append(dep)
        return seen

    lines = []
    for name in sorted(depends):
        # modprobe loads a line from its end.
        needed_first = " ".join(where[dep] for dep in reversed(closure(name, [])))
        lines.append(f"{where[name]}: {needed_first}")
    cpio.file(base + "/modules.dep", ("\n".join(lines) + "\n").encode())
    text = "".join("alias {} {}\n".format(*pair) for pair in aliases)
    cpio.file(base + "/modules.alias", text.encode())
    cpio.file(base + "/modules.symbols", b"")
    for name in ("modules.builtin", "modules.order"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path, "rb") as handle:
                cpio.file(base + "/" + name, handle.read())
    return sorted(depends)


def kernel_folder(cache, label):
    """The cache's folder for a kernel given as label (6.12) or release."""
    top = os.path.join(cache, "kernels")
    names = sorted(os.listdir(top)) if os.path.isdir(top) else []
    for name in names:
        meta = os.path.join(top, name, "kernel.json")
        if os.path.exists(meta):
            with open(meta) as handle:
                info = json.load(handle)
            if label in (name, info["release"]):
                return os.path.join(top, name), info
    raise SystemExit(
        "initramfs: no kernel {} in {} (there: {})".format(label, top, " ".join(names) or "none")
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", help="folder that fetch-vm filled")
    parser.add_argument("kernel", help="kernel label (6.1, 6.12, 7) or release")
    parser.add_argument(
        "-o", "--output", help="file to write (default: CACHE/initramfs/KERNEL.cpio)"
    )
    parser.add_argument(
        "--modules",
        default=DEFAULT_MODULES,
        help="kernel modules, dependencies come by themselves; a leading ? marks "
        "one that may be missing (default: %(default)s)",
    )
    parser.add_argument(
        "--programs",
        default=DEFAULT_PROGRAMS,
        help="programs from the cache's packages, by name or by absolute path "
        "there (default: %(default)s)",
    )
    parser.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="FOLDER",
        help="more unpacked packages, beside those of the cache",
    )
    parser.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="SRC:DST",
        help="add a file or folder of this machine; a program added so is expected "
        "to be static or linked with libraries the cache has",
    )
    parser.add_argument(
        "--add-root",
        action="append",
        default=[],
        metavar="PATH",
        help="add a file or folder of the cache's packages at the same path, with "
        "the libraries it needs",
    )
    parser.add_argument("--rc", help="shell file that /init sources before it serves the shell")
    parser.add_argument("--init", help="an /init to use instead of the built-in one")
    parser.add_argument(
        "--compress",
        choices=("none", "gzip"),
        default="none",
        help="none boots fastest (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="build even when nothing changed")
    parser.add_argument("-q", "--quiet", action="store_true")
    args = parser.parse_args()

    folder, info = kernel_folder(args.cache, args.kernel)
    release = info["release"]
    root = Root(os.path.join(args.cache, "root"), *args.root)
    output = args.output or os.path.join(
        args.cache, "initramfs", os.path.basename(folder) + ".cpio"
    )

    # What the result depends on; the same key means nothing to do.
    key = hashlib.sha256()
    with open(os.path.abspath(__file__), "rb") as handle:
        key.update(handle.read())
    manifest = os.path.join(args.cache, "manifest.json")
    if os.path.exists(manifest):
        with open(manifest, "rb") as handle:
            key.update(handle.read())
    key.update(
        repr(
            (
                *(info, args.modules, args.programs, args.root, args.add, args.add_root),
                args.compress,
            )
        ).encode()
    )
    watched = [item.rpartition(":")[0] for item in args.add]
    watched += [path for path in (args.rc, args.init) if path]
    for path in watched:
        for top, dirs, files in os.walk(path) if os.path.isdir(path) else [("", [], [path])]:
            dirs.sort()
            for name in sorted(files):
                full = os.path.join(top, name)
                state = os.lstat(full)
                key.update(repr((full, state.st_size, state.st_mtime_ns, state.st_mode)).encode())
    stamp = output + ".key"
    digest = key.hexdigest()
    if not args.force and os.path.exists(output) and os.path.exists(stamp):
        with open(stamp) as handle:
            if handle.read() == digest:
                print(output)
                return

    cpio = Cpio()
    for name in (
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "proc",
        "sys",
        "dev",
        "etc",
        "root",
        "tmp",
        "run",
        "mnt",
        "var/log",
        "var/tmp",
    ):
        cpio.mkdir(name)
    for name in ("bin", "sbin", "lib", "lib64"):
        cpio.link(name, "usr/" + name)
    cpio.link("var/run", "/run")
    cpio.add("dev/console", stat.S_IFCHR | 0o600, rdev=(5, 1))
    cpio.add("dev/null", stat.S_IFCHR | 0o666, rdev=(1, 3))
    cpio.add("dev/ttyS0", stat.S_IFCHR | 0o600, rdev=(4, 64))
    done = set()
    for name in ["busybox", "dash", *args.programs.split()]:
        found = root.program(name)
        if not found:
            raise SystemExit(f"initramfs: no program {name} in the cache")
        add_path(cpio, root, found, done)
    cpio.link("usr/bin/sh", "dash")
    cpio.link("usr/sbin/modprobe", "../bin/busybox")  # what the kernel itself calls
    # What the C library loads by name when a thread is cancelled (iperf3 does).
    add_path(cpio, root, "usr/lib/x86_64-linux-gnu/libgcc_s.so.1", done)
    for path in args.add_root:
        path = path.strip("/")
        full = root.place(path)
        if os.path.isdir(full):
            for top, _dirs, files in os.walk(full):
                for name in sorted(files):
                    inner = os.path.relpath(os.path.join(top, name), full)
                    add_path(cpio, root, os.path.join(path, inner), done)
        else:
            add_path(cpio, root, path, done)
    for item in args.add:
        source, _, target = item.rpartition(":")
        if not source:
            raise SystemExit("initramfs: --add wants SRC:DST")
        if os.path.isdir(source):
            for top, _dirs, files in os.walk(source):
                for name in sorted(files):
                    path = os.path.join(top, name)
                    place = os.path.join(target, os.path.relpath(path, source))
                    if os.path.islink(path):
                        cpio.link(place, os.readlink(path))
                    else:
                        with open(path, "rb") as handle:
                            cpio.file(place, handle.read(), os.stat(path).st_mode & 0o777)
        else:
            with open(source, "rb") as handle:
                data = handle.read()
            if data[:4] == b"\x7fELF":
                add_program(cpio, root, source, target, done)
            else:
                cpio.file(target, data, os.stat(source).st_mode & 0o777)
    cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    cpio.file("etc/group", b"root:x:0:\n")
    cpio.file("etc/hosts", b"127.0.0.1 localhost\n")
    cpio.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files\n")
    if args.rc:
        with open(args.rc, "rb") as handle:
            cpio.file("etc/vm.rc", handle.read(), 0o755)
    if args.init:
        with open(args.init, "rb") as handle:
            cpio.file("init", handle.read(), 0o755)
    else:
        cpio.file("init", INIT.encode(), 0o755)
    zstd = os.path.join(args.cache, "bin", "zstd")
    added = add_modules(cpio, os.path.join(folder, "modules"), release, args.modules.split(), zstd)

    data = cpio.bytes()
    size = len(data)
    if args.compress == "gzip":
        data = gzip.compress(data, 6, mtime=0)
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    partial = output + ".tmp%d" % os.getpid()
    with open(partial, "wb") as handle:
        handle.write(data)
    os.replace(partial, output)
    with open(stamp, "w") as handle:
        handle.write(digest)
    if not args.quiet:
        print(
            "initramfs: %s, %d files, %.1f MB (%.1f MB unpacked), modules: %s"
            % (release, len(cpio.names), len(data) / 1e6, size / 1e6, " ".join(added)),
            file=sys.stderr,
        )
    print(output)


if __name__ == "__main__":
    main()
