"""Makes disks of what the ramdisk's kernel tells in sysfs.

The names are udev's, as operators know them from `lsblk` and from Ironic's agent: WWN by `naa.` of the device's
identification page (SCSI SPC-4, 7.8.6), serial number of the unit serial number page, `by_path` by udev's `path_id`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from metald.drivers.root_device import Disk

_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
_HCTL = re.compile(r"/(\d+:\d+:\d+:\d+)/block/")
_TRANSPORTS = (
    ("/nvme", "nvme"),
    ("/usb", "usb"),
    ("/ata", "sata"),
    ("/end_device-", "sas"),
    ("/rport-", "fc"),
    ("/session", "iscsi"),
    ("/mmc", "mmc"),
    ("/virtio", "virtio"),
)


def disk(facts: Mapping[str, str]) -> Disk:
    """The disk that one line of `metald-ramdisk disks` describes."""
    path = facts.get("path", "")
    hctl = _HCTL.search(path)
    wwn, vendor_extension, whole = _wwn(facts.get("wwid") or facts.get("device/wwid") or "")
    return Disk(
        name=f"/dev/{facts['name']}",
        size=_number(facts.get("size", "")) * 512,
        sector=_number(facts.get("queue/logical_block_size", "")) or 512,
        rotational=facts.get("queue/rotational") == "1",
        read_only=facts.get("ro") == "1",
        model=_words(facts.get("device/model", "")),
        vendor=_words(facts.get("device/vendor", "")),
        serial=_words(facts.get("serial") or facts.get("device/serial") or _unit_serial(facts.get("vpd_pg80", ""))),
        wwn=wwn,
        wwn_with_extension=whole,
        wwn_vendor_extension=vendor_extension,
        hctl=hctl[1] if hctl else "",
        by_path=_by_path(path, facts, hctl[1] if hctl else ""),
        tran=next((name for part, name in _TRANSPORTS if part in path), ""),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _words(text: str) -> str:
    return " ".join(text.split())


def _unit_serial(page: str) -> str:
    raw = bytes.fromhex(page) if len(page) % 2 == 0 else b""
    return raw[4 : 4 + int.from_bytes(raw[2:4], "big")].decode("ascii", "replace") if len(raw) > 4 else ""


def _wwn(identity: str) -> tuple[str, str, str]:
    """WWN, its vendor extension, and both together."""
    if identity.startswith("naa."):
        digits = identity[4:]
        return f"0x{digits[:16]}", f"0x{digits[16:]}" if len(digits) > 16 else "", f"0x{digits}"
    return (identity, "", identity) if identity.startswith(("eui.", "nvme.")) else ("", "", "")


def _by_path(path: str, facts: Mapping[str, str], hctl: str) -> str:
    """udev's persistent name by place, where it follows from the path alone."""
    addresses = _PCI.findall(path)
    if not addresses:
        return ""
    place = f"pci-{addresses[-1]}"
    name = facts["name"]
    if "/usb" in path:
        return ""
    if nvme := re.fullmatch(r"nvme\d+(?:c\d+)?n(\d+)", name):
        return f"/dev/disk/by-path/{place}-nvme-{nvme[1]}"
    if "/ata" in path:
        port = facts.get("ata_port", "")
        return f"/dev/disk/by-path/{place}-ata-{port}" if port else ""
    if hctl:
        return f"/dev/disk/by-path/{place}-scsi-0:{hctl.partition(':')[2]}"
    return f"/dev/disk/by-path/{place}" if "/virtio" in path else ""
