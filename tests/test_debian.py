"""Packages that are made here, unpacked as the fetched ones are.  No network."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from bench import debian
from tests.vm.harness.kernel import place

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")

CONTROL = """\
Package: kettle
Version: 1:2.0-1
Architecture: amd64
Maintainer: nobody <nobody@example.org>
Description: boils
"""


@pytest.fixture
def deb(tmp_path: Path) -> str:
    """A package named as apt names what it downloads."""
    tree = tmp_path / "tree"
    for name, text in (
        ("DEBIAN/control", CONTROL),
        ("usr/bin/kettle", "#!/bin/sh\n"),
        ("usr/share/doc/kettle/copyright", "mine\n"),
        ("usr/share/qemu/slof.bin", "firmware\n"),
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (tree / "usr/bin/boil").symlink_to("kettle")
    path = tmp_path / "kettle_1%3a2.0-1_amd64.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, path], check=True)
    return str(path)


def test_a_manifest_says_version_and_digest(deb: str) -> None:
    data = Path(deb).read_bytes()
    assert debian.record(deb) == {
        "package": "kettle",
        "version": "1:2.0-1",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def test_what_programs_need_is_unpacked_and_no_more(deb: str, tmp_path: Path) -> None:
    debian.unpack([deb], str(tmp_path / "root"))
    found = {str(path.relative_to(tmp_path / "root")) for path in (tmp_path / "root").rglob("*")}
    assert {"usr/bin/kettle", "usr/bin/boil"} <= found
    assert not {"usr/share/doc", "usr/share/qemu/slof.bin"} & found
    assert (tmp_path / "root/usr/bin/boil").read_text() == "#!/bin/sh\n"


def test_plain_files_come_with_their_content(deb: str) -> None:
    assert {name: content.read() for name, content in debian.plain_files(deb)} == {
        "usr/bin/kettle": b"#!/bin/sh\n",
        "usr/share/doc/kettle/copyright": b"mine\n",
        "usr/share/qemu/slof.bin": b"firmware\n",
    }


def test_a_damaged_package_ends_the_fetch(deb: str, tmp_path: Path) -> None:
    data = Path(deb).read_bytes()
    Path(deb).write_bytes(data[: len(data) - 200])
    with pytest.raises(debian.Failed, match="cannot unpack"):
        debian.unpack([deb], str(tmp_path / "root"))
    with pytest.raises(debian.Failed, match="cannot unpack"):
        list(debian.plain_files(deb))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("boot/vmlinuz-6.12.9-amd64", ("6.12.9-amd64", "vmlinuz")),
        ("usr/lib/modules/7.0/vmlinuz", ("7.0", "vmlinuz")),
        ("lib/modules/7.0/modules.order", ("7.0", "modules/modules.order")),
        (
            "usr/lib/modules/7.0/kernel/drivers/net/ethernet/iavf.ko.xz",
            ("7.0", "modules/kernel/drivers/net/ethernet/iavf.ko.xz"),
        ),
        ("usr/lib/modules/7.0/kernel/drivers/net/wireless/ath.ko", ("7.0", None)),
        ("usr/lib/modules/7.0/kernel/drivers/gpu/drm.ko", ("7.0", None)),
        ("boot/System.map-7.0", (None, None)),
        ("usr/share/doc/kettle", (None, None)),
    ],
)
def test_of_a_kernel_stays_what_a_network_guest_loads(
    name: str, kept: tuple[str | None, str | None]
) -> None:
    assert place(name) == kept
