"""Which loader a machine is told, by its firmware and its node's boot interface."""

from __future__ import annotations

import pytest

from metald.boot.loaders import GRUB, INTERFACES, IPXE, SIGNED, Family, Firmware, First, architecture, first


@pytest.mark.parametrize(
    ("interface", "firmware", "family", "kind", "name"),
    [
        ("ipxe", "pxe", "bios", "tftp", "undionly.kpxe"),
        ("ipxe", "pxe", "x86_64", "tftp", "ipxe.efi"),
        ("ipxe", "pxe", "arm64", "tftp", "arm64-efi/ipxe.efi"),
        ("ipxe", "http", "x86_64", "http", "ipxe.efi"),
        ("ipxe", "ipxe", "bios", "script", ""),
        ("somebody-elses", "pxe", "bios", "tftp", "undionly.kpxe"),
        ("http-ipxe", "http", "arm64", "http", "arm64-efi/ipxe.efi"),
        ("http-ipxe", "ipxe", "x86_64", "script", ""),
        ("pxe", "pxe", "bios", "tftp", "pxelinux.0"),
        ("pxe", "ipxe", "bios", "tftp", "pxelinux.0"),
        ("pxe", "pxe", "x86_64", "tftp", "bootx64.efi"),
        ("pxe", "pxe", "arm64", "tftp", "bootaa64.efi"),
        ("http", "http", "x86_64", "image", ""),
        ("http", "http", "arm64", "image", ""),
    ],
)
def test_first(interface: str, firmware: Firmware, family: Family, kind: str, name: str) -> None:
    assert first(interface, firmware, family) == First(kind, name)  # type: ignore[arg-type]


def test_file_by_file_instead_of_an_image() -> None:
    assert first("http", "http", "x86_64", image=False) == First("http", "bootx64.efi")


@pytest.mark.parametrize(
    ("interface", "firmware", "family", "cause"),
    [
        ("http-ipxe", "pxe", "x86_64", "turn PXE off"),
        ("http", "pxe", "x86_64", "turn PXE off"),
        ("pxe", "http", "x86_64", "boot_interface to http"),
        ("http", "ipxe", "x86_64", "boot_interface to http-ipxe"),
        ("ipxe", "pxe", "", "no boot loader"),
        ("pxe", "pxe", "", "no boot loader"),
    ],
)
def test_nothing_to_load(interface: str, firmware: Firmware, family: Family, cause: str) -> None:
    found = first(interface, firmware, family)
    assert isinstance(found, str)
    assert cause in found


def test_every_family_has_its_loaders() -> None:
    assert set(IPXE) == set(SIGNED) == {"bios", "x86_64", "arm64"}
    assert set(GRUB) == {"x86_64", "arm64"}
    assert set(INTERFACES) == {"ipxe", "pxe", "http", "http-ipxe"}
    assert (architecture(7).family, architecture(11).family, architecture(0).family) == ("x86_64", "arm64", "bios")
    assert architecture(16).http
    assert architecture(4711).text == "number 4711"
