"""What Nova's driver for Ironic asks, in its order, by the library that it asks with.

Run by `python -m tests.conformance --only nova`, in the environment of openstacksdk; `METALD_URL` says where.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import openstack
import pytest
from keystoneauth1 import adapter, noauth, session
from openstack import exceptions

URL = os.environ["METALD_URL"]
FIELDS = (
    "uuid",
    "power_state",
    "target_power_state",
    "provision_state",
    "target_provision_state",
    "last_error",
    "maintenance",
    "properties",
    "instance_uuid",
    "traits",
    "resource_class",
)
"""What Nova asks of a node in its lists."""
MAC = "52:54:00:%02x:%02x:%02x"
DEADLINE = 120.0


@pytest.fixture(scope="module")
def ironic() -> Iterator[Any]:
    """Nova's connection."""
    with openstack.connect(auth_type="none", baremetal_endpoint_override=URL, baremetal_api_version="1") as connection:
        yield connection.baremetal


@pytest.fixture
def node(ironic: Any) -> Iterator[Any]:
    """A node that may be deployed."""
    made = ironic.create_node(driver="fake-hardware", name=f"nova-{uuid.uuid4()}", resource_class="baremetal")
    ironic.set_node_provision_state(made, "manage", wait=True, timeout=DEADLINE)
    ironic.set_node_provision_state(made, "provide", wait=True, timeout=DEADLINE)
    yield ironic.get_node(made.id)
    ironic.set_node_maintenance(made)
    ironic.delete_node(made)


def until(look: Callable[[], bool]) -> None:
    """Wait for what is to come, as the driver's looping calls do."""
    deadline = time.monotonic() + DEADLINE
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_both_version_headers_at_the_oldest_version(node: Any) -> None:
    client = adapter.Adapter(
        session.Session(noauth.NoAuth(endpoint=URL)), service_type="baremetal", endpoint_override=URL, default_microversion="1.46"
    )
    answer = client.get("/v1/nodes?fields=uuid,instance_uuid&conductor_group=", headers={"X-OpenStack-Ironic-API-Version": "1.46"})
    assert answer.headers["X-OpenStack-Ironic-API-Version"] == "1.46"
    assert node.id in {found["uuid"] for found in answer.json()["nodes"]}
    sharded = client.get("/v1/nodes?fields=uuid&shard=none-such", microversion="1.82")
    assert sharded.json()["nodes"] == []


def test_resources_of_nodes(ironic: Any, node: Any) -> None:
    found = {one.id: one for one in ironic.nodes(fields=FIELDS, is_maintenance=False)}
    assert found[node.id].provision_state == "available"
    assert found[node.id].resource_class == "baremetal"
    assert found[node.id].instance_id is None
    assert not found[node.id].traits
    assert node.id not in {one.id for one in ironic.nodes(associated=True, fields=FIELDS)}
    assert ironic.get_node(node.id, fields=FIELDS).id == node.id
    with pytest.raises(exceptions.NotFoundException):
        ironic.get_node(str(uuid.uuid4()), fields=FIELDS)


def spawn(ironic: Any, node: Any, instance: str) -> Any:
    """Claim a node for an instance, describe the instance, deploy, and wait, as `spawn` does."""
    ironic.update_node(node, retry_on_conflict=False, instance_id=instance)
    described = {
        "image_source": str(uuid.uuid4()),
        "image_checksum": "0" * 32,
        "root_gb": "10",
        "swap_mb": "0",
        "ephemeral_gb": "0",
        "display_name": "vm",
        "vcpus": "1",
        "nova_host_id": "compute-1",
        "memory_mb": "1024",
        "local_gb": "10",
        "nova_flavor": "bm",
        "fixed_ips": "[]",
        "project_id": "p",
        "user_id": "u",
        "key_name": "k",
        "capabilities": '{"boot_option": "local"}',
    }
    patch = [{"op": "add", "path": f"/instance_info/{name}", "value": value} for name, value in described.items()]
    patch += [{"op": "replace", "path": "/extra", "value": {"instance": instance}}]
    ironic.patch_node(node, patch)
    result = ironic.validate_node(node, required=None)
    assert result["power"].result, result["power"].reason
    ironic.set_node_provision_state(node, "active", config_drive={"meta_data": {"uuid": instance}, "user_data": "#cloud-config\n"})
    until(lambda: by_instance(ironic, instance).provision_state == "active")
    return ironic.get_node(node.id)


def by_instance(ironic: Any, instance: str) -> Any:
    """The node of an instance, by the list that Nova polls."""
    found = list(ironic.nodes(instance_id=instance, fields=FIELDS))
    assert len(found) == 1
    assert found[0].last_error is None
    return found[0]


def test_an_instance_lives_and_dies(ironic: Any, node: Any) -> None:
    instance = str(uuid.uuid4())
    ironic.attach_vif_to_node(node, str(uuid.uuid4()))
    active = spawn(ironic, node, instance)
    assert active.instance_id == instance
    assert active.extra == {"instance": instance}
    with pytest.raises(exceptions.ConflictException):
        ironic.update_node(node, retry_on_conflict=False, instance_id=str(uuid.uuid4()))

    ironic.set_node_power_state(node, "soft power off", timeout=60)
    until(lambda: by_instance(ironic, instance).power_state == "power off")
    ironic.set_node_power_state(node, "power on")
    until(lambda: by_instance(ironic, instance).power_state == "power on")
    ironic.set_node_power_state(node, "soft rebooting")
    until(lambda: by_instance(ironic, instance).target_power_state is None)

    ironic.set_node_provision_state(node, "rescue", rescue_password="secret")
    until(lambda: by_instance(ironic, instance).provision_state == "rescue")
    ironic.set_node_provision_state(node, "unrescue")
    until(lambda: by_instance(ironic, instance).provision_state == "active")

    ironic.set_node_provision_state(node, "rebuild", config_drive="")
    until(lambda: by_instance(ironic, instance).provision_state == "active")

    ironic.set_node_provision_state(node, "deleted")
    until(lambda: ironic.get_node(node.id, fields=FIELDS).provision_state == "available")
    gone = ironic.get_node(node.id)
    assert gone.instance_id is None
    assert gone.instance_info == {}
    assert list(ironic.nodes(instance_id=instance, fields=FIELDS)) == []


def test_network(ironic: Any, node: Any) -> None:
    number = uuid.uuid4().bytes
    group = ironic.create_port_group(node_id=node.id, name=f"bond-{node.id}", properties={"bond_opt": 1})
    port = ironic.create_port(node_id=node.id, address=MAC % tuple(number[:3]), is_pxe_enabled=True, port_group_id=group.id)
    try:
        assert [one.address for one in ironic.ports(node=node.id, details=True)] == [port.address]
        assert [one.id for one in ironic.port_groups(node=node.id, details=True)] == [group.id]
        vif = str(uuid.uuid4())
        ironic.attach_vif_to_node(node, vif)
        assert isinstance(list(ironic.list_node_vifs(node)), list)
        ironic.detach_vif_from_node(node, vif)
    finally:
        ironic.delete_port(port)
        ironic.delete_port_group(group)


def test_volumes(ironic: Any, node: Any) -> None:
    ironic.set_node_power_state(node, "power off", wait=True, timeout=DEADLINE)
    connector = ironic.create_volume_connector(node_id=node.id, type="iqn", connector_id=f"iqn.2017-01.x:{node.id}")
    assert [one.connector_id for one in ironic.volume_connectors(details=True, node=node.id)] == [connector.connector_id]
    target = ironic.create_volume_target(
        node_id=node.id, volume_type="iscsi", volume_id=str(uuid.uuid4()), boot_index=0, properties={"auth_password": "secret"}
    )
    shown = list(ironic.volume_targets(details=True, node=node.id))
    assert [one.id for one in shown] == [target.id]
    assert "secret" not in str(shown[0].properties)
    ironic.delete_volume_target(target)
    ironic.delete_volume_connector(connector)


def test_console_and_interrupt(ironic: Any, node: Any) -> None:
    assert ironic.get_node_console(node)["console_enabled"] is False
    ironic.enable_node_console(node)
    until(lambda: ironic.get_node_console(node)["console_enabled"])
    ironic.disable_node_console(node)
    until(lambda: not ironic.get_node_console(node)["console_enabled"])
    with pytest.raises(exceptions.BadRequestException):
        ironic.inject_nmi_to_node(node)


def test_a_claim_for_an_instance(ironic: Any, node: Any) -> None:
    instance = str(uuid.uuid4())
    ironic.add_node_trait(node, "CUSTOM_NOVA")
    claim = ironic.create_allocation(
        resource_class="baremetal", name=f"claim-{instance}", traits=["CUSTOM_NOVA"], candidate_nodes=[node.id]
    )
    claim = ironic.wait_for_allocation(claim, timeout=DEADLINE)
    assert claim.node_id == node.id
    assert ironic.get_node(node.id).instance_id == claim.id
    ironic.delete_allocation(claim)
    assert ironic.get_node(node.id).instance_id is None
