"""Root device hints: every property and operator."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.drivers.root_device import GIB, KEYS, Disk, choose, parse_hints, root_hints
from metald.drivers.ssh.facts import disk
from metald.errors import DeployError, Invalid
from metald.model import Node

SSD = Disk(
    "/dev/nvme0n1",
    100 * GIB + 5,
    model="Samsung SSD 980",
    vendor="Samsung",
    serial="S3RIAL",
    wwn="0x5000",
    wwn_with_extension="0x5000ff",
    wwn_vendor_extension="0xff",
    hctl="0:0:0:0",
    by_path="/dev/disk/by-path/pci-0000:00:04.0-nvme-1",
    tran="nvme",
)
HDD = Disk("/dev/sda", 50 * GIB, rotational=True, model="ST500", serial="Z9", tran="sata")


@pytest.mark.parametrize(
    ("hints", "matches"),
    [
        ({"size": 100}, True),
        ({"size": "100"}, True),
        ({"size": 99}, False),
        ({"size": "== 100"}, True),
        ({"size": "= 90"}, True),
        ({"size": "= 110"}, False),
        ({"size": "!= 100"}, False),
        ({"size": ">= 100"}, True),
        ({"size": "> 100"}, False),
        ({"size": "<= 100"}, True),
        ({"size": "< 100"}, False),
        ({"size": "<or> 50 <or> 100"}, True),
        ({"size": "<or> 50 <or> 60"}, False),
        ({"size": "<range-in> [ 50 100 ]"}, True),
        ({"size": "<range-in> [ 50 100 )"}, False),
        ({"size": "<range-in> ( 100 200 ]"}, False),
        ({"model": "samsung ssd 980"}, True),
        ({"model": "s== SAMSUNG SSD 980"}, True),
        ({"model": "s!= x"}, True),
        ({"model": "s> a"}, True),
        ({"model": "s>= t"}, False),
        ({"model": "s< z"}, True),
        ({"model": "s<= a"}, False),
        ({"model": "<in> ssd"}, True),
        ({"model": "<in> hdd"}, False),
        ({"model": "<all-in> ssd samsung"}, True),
        ({"model": "<all-in> ssd hdd"}, False),
        ({"model": "samsung%20ssd%20980"}, True),
        ({"vendor": "<or> intel <or> samsung"}, True),
        ({"rotational": False}, True),
        ({"rotational": "true"}, False),
        ({"wwn": "0x5000"}, True),
        ({"wwn_with_extension": "0x5000FF"}, True),
        ({"wwn_vendor_extension": "0xff"}, True),
        ({"name": "/dev/nvme0n1"}, True),
        ({"hctl": "0:0:0:0"}, True),
        ({"hctl": "0:0:0:1"}, False),
        ({"by_path": "/dev/disk/by-path/pci-0000:00:04.0-nvme-1"}, True),
        ({"tran": "nvme"}, True),
        ({"serial": "s3rial", "size": 7}, False),
        ({"serial": "s3rial", "size": ">= 7"}, True),
    ],
)
def test_each_property_and_operator(hints: dict[str, Any], matches: bool) -> None:
    if matches:
        assert choose([SSD], hints, "n1") is SSD
    else:
        with pytest.raises(DeployError):
            choose([SSD], hints, "n1")


@pytest.mark.parametrize(
    "hints",
    [
        {"colour": "red"},
        {"size": "large"},
        {"size": ">= "},
        {"size": True},
        {"size": None},
        {"size": "<range-in> 5 6"},
        {"rotational": "so"},
        {"model": ["x"]},
        {"model": ""},
        {"model": "<in>"},
        {"size": "<or> a <or> b"},
    ],
)
def test_what_cannot_be_read_is_named(hints: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match=next(iter(hints))):
        parse_hints(hints, "n1")


def test_without_hints_the_smallest_that_is_large_enough() -> None:
    tiny, locked = Disk("/dev/sdb", GIB), Disk("/dev/sdc", 5 * GIB, read_only=True)
    assert choose([SSD, HDD, tiny, locked], {}, "n1") is HDD
    with pytest.raises(DeployError, match=r"/dev/sdb \(1\.0 GiB\): it is too small; /dev/sdc .*read-only; /dev/sr0 .*no medium"):
        choose([tiny, locked, Disk("/dev/sr0", 0)], {}, "n1")
    with pytest.raises(DeployError, match="no disk at all"):
        choose([], {}, "n1")


def test_the_instance_goes_before_the_properties() -> None:
    node = Node(driver="ipmi", properties={"root_device": {"size": 1}}, instance_info={"root_device": {"size": 2}})
    assert root_hints(node) == {"size": 2}
    assert root_hints(node.changed(instance_info={})) == {"size": 1}
    with pytest.raises(Invalid):
        root_hints(node.changed(instance_info={"root_device": "sda"}))


@given(st.sampled_from(KEYS), st.text() | st.integers() | st.floats(allow_nan=False))
def test_any_hint_is_used_or_refused(key: str, value: Any) -> None:
    with contextlib.suppress(Invalid, DeployError):
        choose([SSD, HDD], {key: value}, "n1")


@given(st.sampled_from(["model", "vendor", "serial", "name"]), st.sampled_from([SSD, HDD]))
def test_what_a_disk_says_of_itself_finds_it(key: str, one: Disk) -> None:
    value = getattr(one, key)
    if value:
        assert choose([SSD, HDD], {key: f"s== {value}"}, "n1") is one
        assert choose([one], {key: f"<in> {value[1:3]}"}, "n1") is one


PCI = "/sys/devices/pci0000:00/0000:00:1f.2"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            {
                "name": "sda",
                "path": f"{PCI}/ata2/host1/target1:0:0/1:0:0:0/block/sda",
                "ata_port": "2",
                "device/wwid": "naa.5000c500a1b2c3d4",
                "queue/rotational": "1",
                "size": "2048",
                "vpd_pg80": "00800008" + b"  SER123".hex(),
                "device/model": "ST500  ",
            },
            {
                "hctl": "1:0:0:0",
                "tran": "sata",
                "wwn": "0x5000c500a1b2c3d4",
                "rotational": True,
                "size": 1 << 20,
                "serial": "SER123",
                "by_path": "/dev/disk/by-path/pci-0000:00:1f.2-ata-2",
                "model": "ST500",
            },
        ),
        (
            {"name": "nvme0n1", "path": f"{PCI}/nvme/nvme0/nvme0n1", "wwid": "eui.0025385b", "device/serial": "S1"},
            {"tran": "nvme", "wwn": "eui.0025385b", "serial": "S1", "by_path": "/dev/disk/by-path/pci-0000:00:1f.2-nvme-1"},
        ),
        (
            {
                "name": "sdb",
                "path": f"{PCI}/virtio3/host2/target2:0:1/2:0:1:5/block/sdb",
                "device/wwid": "naa.600508b1001c5f2a0123456789abcdef",
            },
            {
                "wwn": "0x600508b1001c5f2a",
                "wwn_vendor_extension": "0x0123456789abcdef",
                "wwn_with_extension": "0x600508b1001c5f2a0123456789abcdef",
                "by_path": "/dev/disk/by-path/pci-0000:00:1f.2-scsi-0:0:1:5",
            },
        ),
        ({"name": "vda", "path": f"{PCI}/virtio1/block/vda"}, {"tran": "virtio", "by_path": "/dev/disk/by-path/pci-0000:00:1f.2"}),
        ({"name": "sdc", "path": f"{PCI}/usb1/1-1/host3/target3:0:0/3:0:0:0/block/sdc"}, {"tran": "usb", "by_path": ""}),
        ({"name": "xvda"}, {"tran": "", "size": 0, "sector": 512}),
    ],
)
def test_facts_of_the_kernel(facts: dict[str, str], expected: dict[str, Any]) -> None:
    seen = disk(facts)
    assert {key: getattr(seen, key) for key in expected} == expected


@given(
    st.dictionaries(
        st.sampled_from(["size", "path", "wwid", "vpd_pg80", "queue/rotational"]), st.from_regex(r"[0-9a-f/.:]{0,40}", fullmatch=True)
    )
)
def test_any_facts_are_read(facts: dict[str, str]) -> None:
    page = facts.get("vpd_pg80", "")
    facts["vpd_pg80"] = page if all(c in "0123456789abcdef" for c in page) else ""
    disk({"name": "sda", **facts})
