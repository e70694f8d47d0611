"""Callback URLs, plans and image parameters: the parts of `direct` that need no agent."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.config import ConfigError, Settings
from metald.drivers.agent import callback, images, steps
from metald.errors import DeployError, Invalid
from metald.model import Node, PlannedStep, Port

NODE = Node(driver="ipmi")


@given(st.text(max_size=60) | st.from_regex(r"https?://[0-9a-z.:\[\]@/?#-]{0,40}", fullmatch=True))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    with contextlib.suppress(Invalid):
        address, port = callback.parse(text)
        assert 0 <= port <= 65535
        if address is not None:
            callback.check(f"https://[{address}]:1" if address.version == 6 else f"https://{address}:1", str(address), ())


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "https://",
            "ftp://192.0.2.1",
            "https://u:p@192.0.2.1",
            "https://192.0.2.1/../x",
            "https://192.0.2.1/%2e",
            "https://192.0.2.1//x",
        ),
        *("https://192.0.2.1?x", "https://192.0.2.1:99999"),
    ],
)
def test_what_is_no_url_of_an_agent(url: str) -> None:
    with pytest.raises(Invalid):
        callback.parse(url)


def test_an_ipv4_address_in_ipv6_dress_is_seen_through() -> None:
    with pytest.raises(Invalid):
        callback.check("https://[::ffff:127.0.0.1]:9999", "192.0.2.1", ())
    callback.permit("https://[::ffff:192.0.2.1]:9999", "192.0.2.1", ())


def test_networks_are_checked_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"agent\.callback_networks"):
        callback.networks(["the cellar"])


def test_where_an_agent_may_be_called() -> None:
    networks = callback.networks(["192.0.2.0/24"])
    callback.permit("https://192.0.2.9:9999", "198.51.100.1", networks)
    callback.permit("https://198.51.100.1:9999", "198.51.100.1", ())
    for url in ("https://198.51.100.2:9999", "https://ramdisk.example:9999"):
        with pytest.raises(Invalid):
            callback.permit(url, "198.51.100.1", networks)
    for url in ("https://127.0.0.1:6385", "https://127.8.9.1:6385", "https://localhost:6385"):
        with pytest.raises(Invalid):
            callback.check(url, "127.0.0.1", (6385,))


def test_all_of_loopback_is_one_host() -> None:
    for url in ("http://127.0.0.9:9999", "http://localhost:9999", "http://[::1]:9999"):
        callback.check(url, "127.0.0.1", (6385,))
        callback.permit(url, "127.0.0.1", ())
        with pytest.raises(Invalid):
            callback.check(url, "192.0.2.1", ())


def test_only_the_caller_itself_has_its_api_below_a_path() -> None:
    networks = callback.networks(["192.0.2.0/24"])
    callback.permit("https://192.0.2.1:9999/agents/one/", "192.0.2.1", ())
    callback.permit("https://192.0.2.9:9999/", "192.0.2.1", networks)
    with pytest.raises(Invalid):
        callback.permit("https://192.0.2.9:9999/agents/one", "192.0.2.1", networks)


OFFERS = st.lists(
    st.fixed_dictionaries(
        {
            "step": st.sampled_from("abcdef"),
            "interface": st.sampled_from(["deploy", "raid", "bios"]),
            "priority": st.integers(-5, 100),
            "reboot_requested": st.booleans(),
        }
    ),
    max_size=10,
)


@given(OFFERS, st.lists(st.integers(1, 100), max_size=5))
def test_the_agents_steps_come_by_priority(found: list[steps.Offer], own: list[int]) -> None:
    offers = steps.offered({"clean_steps": {"manager": found}}, "clean", NODE)
    plan = [PlannedStep(interface="power", step=f"own{n}", priority=p) for n, p in enumerate(sorted(own, reverse=True))]
    last = PlannedStep(interface="power", step="power_off")
    merged = steps.merged([*plan, last], offers, "clean", NODE, automatic=True, other={})
    assert merged[-1] == last
    priorities = [step.priority for step in merged]
    assert priorities == sorted(priorities, reverse=True)
    assert {(s.interface, s.step) for s in merged if s.in_band} == {(o["interface"], o["step"]) for o in offers if o["priority"] > 0}
    again = steps.merged(merged, offers, "clean", NODE, automatic=True, other={})
    assert again == merged


def test_the_agent_is_told_every_field_of_a_node_that_has_nothing_set() -> None:
    node = Node(driver="ipmi", properties={"capabilities": "boot_mode:uefi"}, driver_info={"ipmi_password": "s3cret"})
    told = steps.node_for_agent(node, [Port(node_uuid=node.uuid, address="52:54:00:00:00:01")])
    assert set(told["node"]) == set(Node.__struct_fields__)
    assert told["node"]["instance_info"] == {"deploy_boot_mode": "uefi"}
    assert told["node"]["driver_info"]["ipmi_password"] != "s3cret"
    assert set(told["ports"][0]) == set(Port.__struct_fields__)
    plain = steps.node_for_agent(Node(driver="ipmi"), [])["node"]
    assert (plain["instance_info"], plain["properties"], plain["raid_config"]) == ({}, {}, {})


def test_how_disks_are_erased_is_told_where_the_agent_reads_it() -> None:
    def told(**driver_info: object) -> dict[str, object]:
        node = Node(driver="ipmi", driver_info=driver_info, driver_internal_info={"agent_url": "https://192.0.2.1:9999"})
        found: dict[str, object] = steps.node_for_agent(node, [])["node"]["driver_internal_info"]
        return found

    usual = told()
    assert usual["agent_url"] == "https://192.0.2.1:9999"
    assert (usual["agent_enable_nvme_secure_erase"], usual["agent_enable_ata_secure_erase"]) == (True, True)
    assert (usual["agent_continue_if_secure_erase_failed"], usual["agent_erase_devices_iterations"]) == (False, 1)
    other = told(agent_enable_nvme_secure_erase="false", agent_continue_if_secure_erase_failed="yes", agent_erase_devices_iterations="3")
    assert (other["agent_enable_nvme_secure_erase"], other["agent_continue_if_secure_erase_failed"]) == (False, True)
    assert other["agent_erase_devices_iterations"] == 3


@pytest.mark.parametrize("found", [{}, {"clean_steps": None}, {"clean_steps": [1]}])
def test_an_answer_without_steps_is_an_error(found: dict[str, object]) -> None:
    with pytest.raises(DeployError):
        steps.offered(found, "clean", NODE)


def test_settings_change_priorities() -> None:
    offers = steps.offered({"clean_steps": {"m": [{"step": "erase", "interface": "deploy", "priority": 10}]}}, "clean", NODE)
    other = steps.priorities(["deploy.erase:0"])
    assert steps.merged([], offers, "clean", NODE, automatic=True, other=other) == []
    for wrong in ("erase:1", "deploy.erase", "deploy.erase:x"):
        with pytest.raises(ConfigError, match=r"interface\.step"):
            steps.priorities([wrong])


@pytest.mark.parametrize(
    ("info", "field"),
    [
        ({}, "image_source"),
        ({"image_source": "http://h/i"}, "image_checksum"),
        ({"image_source": "http://h/i", "image_checksum": "0" * 32}, "image_checksum"),
        ({"image_source": "http://h/i", "image_checksum": "0" * 64, "image_type": "partition"}, "root_gb"),
        ({"image_source": "http://h/i", "image_checksum": "0" * 64, "image_type": "partition", "root_gb": "many"}, "root_gb"),
    ],
)
def test_images_that_cannot_be_deployed(info: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        images.request(Node(driver="ipmi", instance_info=info), Settings())
    assert refused.value.field == f"instance_info/{field}"
