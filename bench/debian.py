"""Debian packages, fetched and unpacked into folders of their own; for benches and tests.

They come from the mirror that this machine's own apt sources name, of other suites where the
machine's own is too old.  Nothing is installed, and no root rights are needed.
"""

import concurrent.futures
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NoReturn

# Dependencies that nothing run from a cache needs.
DROP = re.compile(
    r".*-dev|systemd.*|udev|lib(python3|systemd-shared|pam-|semanage|dpkg).*|python3.*"
    r"|perl.*|passwd|login.*|adduser|debconf|base-.*|dpkg.*|init-.*|media-types"
    r"|qemu-system-data-.*"
)
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


class Failed(SystemExit):
    """Ends the program with its text, where nobody catches it."""


def fail(text: str) -> NoReturn:
    raise Failed("fetch: " + text)


class Apt:
    """apt with lists and state of its own below a folder, and this machine's mirror."""

    def __init__(self, top: str, mirror: str | None = None) -> None:
        self.top = os.path.join(top, "apt")
        self.debs = os.path.join(top, "debs")
        self.mirror = mirror
        self.security: str | None = None
        for name in ("lists/partial", "cache/archives/partial", "empty", "log"):
            os.makedirs(os.path.join(self.top, name), exist_ok=True)
        os.makedirs(os.path.join(self.debs, "partial"), exist_ok=True)
        Path(self.top, "status").touch()

    def find_mirror(self) -> None:
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
    def codename() -> str | None:
        with open("/etc/os-release") as handle:
            match = re.search(r"^VERSION_CODENAME=\"?([a-z]+)", handle.read(), re.M)
        return match and match.group(1)

    def configure(self, suites: Iterable[str]) -> None:
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

    def run(self, *words: str, cwd: str | None = None) -> str:
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

    def update(self) -> None:
        self.run("apt-get", "update")

    def closure(self, names: Sequence[str], target: str) -> list[str]:
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

    def name(self, name: str, version: str, arch: str) -> str:
        return os.path.join(
            self.debs, "{}_{}_{}.deb".format(name, version.replace(":", "%3a"), arch)
        )

    def path(self, name: str, version: str, arch: str | None = None) -> str:
        """The downloaded file of a package."""
        for one in (arch,) if arch else ("amd64", "all"):
            found = self.name(name, version, one)
            if os.path.exists(found):
                return found
        fail(f"package {name} {version} was not downloaded")

    def madison(self, name: str, suites: Iterable[str]) -> str | None:
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

    def depends(self, name: str, version: str) -> list[str]:
        for line in self.run("apt-cache", "show", f"{name}={version}").split("\n"):
            if line.startswith("Depends:"):
                return [item.strip() for item in line[8:].split(",")]
        return []

    def download(self, name: str, version: str) -> str:
        # "apt-get download" writes where it stands.
        if not any(os.path.exists(self.name(name, version, arch)) for arch in ("amd64", "all")):
            self.run("apt-get", "download", f"{name}={version}", cwd=self.debs)
        return self.path(name, version)

    def tidy(self) -> None:
        """Drop the lists and the downloaded packages."""
        shutil.rmtree(self.top)
        shutil.rmtree(self.debs)


def record(deb: str) -> dict[str, object]:
    """What a manifest says of a package, which its file is named by."""
    name, version, _arch = os.path.basename(deb)[:-4].split("_")
    with open(deb, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return {
        "package": name,
        "version": version.replace("%3a", ":"),
        "bytes": os.path.getsize(deb),
        "sha256": digest,
    }


def unpack(debs: Iterable[str], root: str) -> None:
    """All of the packages but what ROOT_SKIP names, into one folder."""
    os.makedirs(root, exist_ok=True)

    def one(deb: str) -> None:
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


def plain_files(deb: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Path and content of each plain file of a package, one after the other."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as source:
        try:
            with tarfile.open(fileobj=source.stdout, mode="r|") as archive:
                for item in archive:
                    if item.isfile():
                        yield item.name.removeprefix("./"), archive.extractfile(item)
            # What stands behind the archive's end, so that it does not end by a broken pipe.
            source.stdout.read()
        except tarfile.TarError as reason:
            fail(f"cannot unpack {deb}: {reason}")
    if source.returncode:
        fail("cannot unpack " + deb)
