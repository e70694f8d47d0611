"""driver_info: what is taken, what is refused, and that every refusal says key and remedy and no secret."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.drivers.ipmi.info import PROPERTIES, BmcInfo, Bridge, parse
from metald.errors import Invalid
from metald.model import Node


def node(**driver_info: Any) -> Node:
    return Node(driver="ipmi", name="n1", driver_info=driver_info)


def test_the_address_alone_suffices() -> None:
    assert parse(node(ipmi_address="10.0.0.5")) == BmcInfo("10.0.0.5")


def test_everything_said() -> None:
    info = parse(
        node(
            ipmi_address="[fd00::5]",
            ipmi_port="1623",
            ipmi_username="root",
            ipmi_password="calvin",
            ipmi_priv_level="operator",
            ipmi_cipher_suite="3",
            ipmi_hex_kg_key="00ff" * 10,
            ipmi_force_boot_device="True",
            ipmi_disable_boot_timeout=False,
            ipmi_bridging="dual",
            ipmi_target_channel="1",
            ipmi_target_address="0x82",
            ipmi_transit_channel=0,
            ipmi_transit_address="0x72",
            ipmi_local_address="0x20",
            deploy_kernel="unrelated",
        )
    )
    bridge = Bridge("0x1", "0x82", "0x0", "0x72", "0x20")
    assert info == BmcInfo("fd00::5", 1623, "root", "calvin", 3, (3,), b"\x00\xff" * 10, "2.0", bridge, True, False)
    assert info.label == "BMC [fd00::5]:1623"
    assert "calvin" not in repr(info)
    assert "ff" not in repr(info)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ipmi_address", None),
        ("ipmi_address", ""),
        ("ipmi_address", "-H evil"),
        ("ipmi_address", "-v"),
        ("ipmi_address", "a b"),
        ("ipmi_address", "a\nb"),
        ("ipmi_address", ["10.0.0.5"]),
        ("ipmi_address", "x" * 300),
        ("ipmi_port", 0),
        ("ipmi_port", 65536),
        ("ipmi_port", "623a"),
        ("ipmi_port", "٣"),
        ("ipmi_port", True),
        ("ipmi_username", "u" * 17),
        ("ipmi_username", {"a": 1}),
        ("ipmi_password", "hush-hush-hush-hush-hush"),
        ("ipmi_password", "hush\n"),
        ("ipmi_priv_level", "GOD"),
        ("ipmi_cipher_suite", 99),
        ("ipmi_cipher_suite", "strong"),
        ("ipmi_hex_kg_key", "abc"),
        ("ipmi_hex_kg_key", "zz" * 20),
        ("ipmi_hex_kg_key", "a b" * 14),
        ("ipmi_protocol_version", "3.0"),
        ("ipmi_force_boot_device", "perhaps"),
        ("ipmi_bridging", "triple"),
        ("ipmi_bridging", "single"),
        ("ipmi_local_address", "0x100"),
    ],
)
def test_a_wrong_value_names_the_key_and_the_remedy(key: str, value: Any) -> None:
    bridging = {"ipmi_bridging": "single", "ipmi_target_channel": "0", "ipmi_target_address": "1"} if key == "ipmi_local_address" else {}
    with pytest.raises(Invalid) as error:
        parse(node(**{"ipmi_address": "10.0.0.5", **bridging, key: value}))
    assert error.value.field == "driver_info"
    assert error.value.remedy
    assert "n1" in str(error.value)
    assert key in str(error.value) or (key == "ipmi_bridging" and "ipmi_target_channel" in str(error.value))
    assert "hush" not in str(error.value)


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=45), st.lists(st.text(max_size=3)), st.just("0x20")
)


@given(st.dictionaries(st.sampled_from(sorted(PROPERTIES)), _VALUES))
def test_whatever_it_holds_it_is_taken_or_refused(driver_info: dict[str, Any]) -> None:
    try:
        info = parse(node(**driver_info))
    except Invalid:
        return
    assert len(info.password.encode()) <= 20
    assert len(info.username.encode()) <= 16
    assert not info.address.startswith("-")
    assert 0 < info.port < 65536


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::FFFF:c000:207]", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("fe80::7%eth0", "fe80::7%eth0"),
    ],
)
def test_an_address_may_be_written_in_any_way(given: str, taken: str) -> None:
    assert parse(Node(driver="ipmi", driver_info={"ipmi_address": given})).address == taken
