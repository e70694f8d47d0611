"""The table of rules: a name, what it lets people do, and who they must be.

A rule holds for whoever has one of its standings. A standing is a relation and a role: `system admin` is a caller with the
role admin on the whole system; `owner member` has the role member in the project that owns the target; `lessee ...` in the
project that leases it; `any reader` has the role in whatever scope. `elevated service` is the role service in the project
of services, where `api.service_role_elevated_access` is on. Names and grants are those of Ironic 39's defaults; its
deprecated rules from before scopes are left out. docs/reference/policy.md is made from this table.
"""

from __future__ import annotations

from typing import NamedTuple

Standings = frozenset[str]


def _of(relation: str, *roles: str) -> Standings:
    return frozenset(f"{relation} {role}" for role in roles)


ELEVATED = _of("elevated", "service")
NOBODY: Standings = frozenset()

SCOPED_ADMIN = _of("system", "admin")
SCOPED_MEMBER = _of("system", "member")
SCOPED_READER = _of("system", "reader", "service")
"""The first three are for system scope alone: a service of a project does not reach them, elevated or not."""
SYSTEM_ADMIN = SCOPED_ADMIN
SYSTEM_MEMBER = SCOPED_MEMBER | ELEVATED
SYSTEM_READER = SCOPED_READER | ELEVATED
SYSTEM_SERVICE = _of("system", "service")
SERVICES = SYSTEM_SERVICE | _of("owner", "service")

ANY_READER = _of("any", "reader", "service")
PROJECT_READER = SYSTEM_READER | _of("owner", "reader", "service") | _of("lessee", "reader")
PROJECT_MEMBER = SYSTEM_MEMBER | SYSTEM_SERVICE | _of("owner", "member") | _of("lessee", "member")
OWNER_READER = SYSTEM_READER | SERVICES | _of("owner", "reader")
OWNER_MEMBER = SYSTEM_MEMBER | SERVICES | _of("owner", "member")
OWNER_ADMIN = SYSTEM_MEMBER | SERVICES | _of("owner", "admin", "manager")
OWNER_ADMIN_ONLY = SYSTEM_ADMIN | SERVICES | _of("owner", "admin", "manager")
OPERATOR = SYSTEM_MEMBER | SERVICES | _of("owner", "member") | _of("lessee", "admin", "manager")
VOLUMES = SYSTEM_MEMBER | SERVICES | _of("owner", "admin", "manager") | _of("lessee", "admin", "manager")
CLAIMER = SYSTEM_MEMBER | _of("owner", "member")
CLAIM_READER = SYSTEM_READER | _of("owner", "reader")
RUNBOOK_ADMIN = SYSTEM_MEMBER | _of("owner", "manager") | _of("any", "service")
RUNBOOK_READER = SYSTEM_READER | _of("owner", "reader") | _of("any", "service")


class Rule(NamedTuple):
    """One rule: its name in Ironic's words, what it is asked for, and the standings that it takes (one of them)."""

    name: str
    meaning: str
    who: Standings


def _rows(prefix: str, *rows: tuple[str, str, Standings]) -> tuple[Rule, ...]:
    return tuple(Rule(f"baremetal:{prefix}:{name}", meaning, who) for name, meaning, who in rows)


_NODES = (
    ("create", "Create nodes, of any owner", SYSTEM_ADMIN | SYSTEM_SERVICE),
    ("create:self_owned_node", "Create nodes that the own project owns", _of("any", "admin", "service")),
    ("list", "List the nodes that the own project owns or leases", ANY_READER),
    ("list_all", "List all nodes", SYSTEM_READER),
    ("get", "See a node, and that it is there", PROJECT_READER),
    ("get:filter_threshold", "See nodes without a look at each field", SYSTEM_READER),
    ("get:last_error", "See a node's last error", OWNER_READER),
    ("get:reservation", "See which conductor holds a node", OWNER_READER),
    ("get:driver_internal_info", "See what the driver keeps", OWNER_READER),
    ("get:driver_info", "See how the machine is reached (secrets are masked for everybody)", OWNER_READER),
    ("update", "Change fields that have no rule of their own", PROJECT_MEMBER),
    ("update_extra", "Change `extra`", PROJECT_MEMBER),
    ("update_instance_info", "Change `instance_info` and `instance_name`", OPERATOR),
    ("update_owner_provisioned", "Change the owner of an active node", SCOPED_ADMIN),
    ("update:driver_info", "Change `driver_info`", OWNER_MEMBER),
    ("update:properties", "Change `properties`", OWNER_MEMBER),
    ("update:chassis_uuid", "Move a node to another chassis", SYSTEM_ADMIN),
    ("update:instance_uuid", "Change `instance_uuid`", OWNER_MEMBER),
    ("update:lessee", "Lease a node to a project", OWNER_MEMBER),
    ("update:owner", "Give a node to a project", SYSTEM_MEMBER),
    ("update:driver_interfaces", "Change the driver and its interfaces", OWNER_ADMIN),
    ("update:network_data", "Change `network_data`", OWNER_MEMBER),
    ("update:conductor_group", "Change `conductor_group`", SYSTEM_MEMBER),
    ("update:name", "Rename a node", OWNER_MEMBER),
    ("update:retired", "Retire a node", OWNER_MEMBER),
    ("update:shard", "Change `shard`", SYSTEM_ADMIN),
    ("update:parent_node", "Make a node the child of another", SYSTEM_MEMBER),
    ("update:disable_power_off", "Change `disable_power_off`", SYSTEM_ADMIN),
    ("disable_cleaning", "Turn cleaning off for a node", SYSTEM_ADMIN),
    ("delete", "Delete a node", SYSTEM_ADMIN),
    ("delete:self_owned_node", "Delete a node that the own project owns", _of("owner", "admin")),
    ("validate", "Check a node's settings", OPERATOR),
    ("set_maintenance", "Take a node out of service", OPERATOR),
    ("clear_maintenance", "Bring a node back into service", OPERATOR),
    ("get_boot_device", "See the boot device", OWNER_ADMIN),
    ("set_boot_device", "Set the boot device", OWNER_ADMIN),
    ("get_indicator_state", "See lights", PROJECT_READER),
    ("set_indicator_state", "Switch lights", OWNER_MEMBER),
    ("inject_nmi", "Send an NMI", OWNER_ADMIN),
    ("get_states", "See a node's states", PROJECT_READER),
    ("set_power_state", "Switch power", PROJECT_MEMBER),
    ("set_boot_mode", "Change the boot mode", PROJECT_MEMBER),
    ("set_secure_boot", "Change secure boot", PROJECT_MEMBER),
    ("set_provision_state", "Change the provision state: deploy, clean, rescue, ...", OPERATOR),
    ("set_provision_state:clean_steps", "Clean with steps of one's own", OPERATOR),
    ("set_provision_state:service_steps", "Service with steps of one's own", OPERATOR),
    ("set_raid_state", "Change the wanted RAID", OWNER_MEMBER),
    ("get_console", "See the console's address", OWNER_MEMBER),
    ("set_console_state", "Open and close the console", OWNER_MEMBER),
    ("vif:list", "List attached VIFs", PROJECT_READER),
    ("vif:attach", "Attach a VIF", OPERATOR),
    ("vif:detach", "Detach a VIF", OPERATOR),
    ("traits:list", "List traits", PROJECT_READER),
    ("traits:set", "Add and replace traits", OWNER_ADMIN),
    ("traits:delete", "Remove traits", OWNER_ADMIN),
    ("bios:get", "See BIOS settings", PROJECT_READER),
    ("firmware:get", "See firmware versions", PROJECT_READER),
    ("history:get", "See what happened to a node", OWNER_READER),
    ("inventory:get", "See what inspection found", OWNER_READER),
    ("vmedia:get", "See what is in virtual drives", PROJECT_READER),
    ("vmedia:attach", "Put an image into a virtual drive", PROJECT_MEMBER),
    ("vmedia:detach", "Empty virtual drives", PROJECT_MEMBER),
    ("vendor_passthru", "Call a vendor's method of a node", SYSTEM_ADMIN),
)


def _children(what: str) -> tuple[tuple[str, str, Standings], ...]:
    return (
        ("get", f"See a {what} of a node", PROJECT_READER),
        ("list", f"List the {what}s of the nodes that are seen", ANY_READER),
        ("list_all", f"List all {what}s", SYSTEM_READER),
        ("create", f"Create a {what}", OWNER_ADMIN_ONLY),
        ("update", f"Change a {what}", OWNER_ADMIN),
        ("delete", f"Delete a {what}", OWNER_ADMIN_ONLY),
    )


_VOLUMES = (
    ("get", "See a volume connector or target of a node", PROJECT_READER),
    ("list", "List the volumes of the nodes that are seen", ANY_READER),
    ("list_all", "List all volumes", SYSTEM_READER),
    ("create", "Create a volume connector or target", VOLUMES),
    ("update", "Change a volume connector or target", OPERATOR),
    ("delete", "Delete a volume connector or target", VOLUMES),
    ("view_target_properties", "See how a volume target is reached", SYSTEM_READER | _of("any", "admin")),
)
_ALLOCATIONS = (
    ("get", "See an allocation", CLAIM_READER),
    ("list", "List the own project's allocations", ANY_READER),
    ("list_all", "List all allocations", SYSTEM_READER),
    ("create", "Claim a node for the own project", SYSTEM_MEMBER | _of("any", "member")),
    ("create_restricted", "Claim a node for any owner", SYSTEM_MEMBER),
    ("update", "Change an allocation", CLAIMER),
    ("delete", "Give a claim up", CLAIMER),
)
_RUNBOOKS = (
    ("get", "See a runbook (public ones are seen by all)", RUNBOOK_READER),
    ("list", "List the own project's runbooks and the public ones", ANY_READER),
    ("list_all", "List all runbooks", SYSTEM_READER),
    ("create", "Create a runbook; outside system scope the own project owns it", SYSTEM_MEMBER | _of("any", "manager", "service")),
    ("update", "Change a runbook", RUNBOOK_ADMIN),
    ("update:public", "Make a runbook public", SYSTEM_MEMBER),
    ("update:owner", "Give a runbook to a project", SYSTEM_MEMBER),
    ("delete", "Delete a runbook", RUNBOOK_ADMIN),
    ("use", "Clean and service by a runbook", RUNBOOK_ADMIN),
)


def _catalogue(what: str, reader: Standings, member: Standings, admin: Standings) -> tuple[tuple[str, str, Standings], ...]:
    return (
        ("get", f"See {what}", reader),
        ("create", f"Create {what}", admin),
        ("update", f"Change {what}", member),
        ("delete", f"Delete {what}", admin),
    )


RULES: tuple[Rule, ...] = (
    Rule("show_password", "See secrets in `driver_info`", NOBODY),
    Rule("show_instance_secrets", "See secrets in `instance_info`", NOBODY),
    *_rows("node", *_NODES),
    *_rows("port", *_children("port")),
    *_rows("portgroup", *_children("port group")),
    *_rows("volume", *_VOLUMES),
    *_rows("allocation", *_ALLOCATIONS),
    *_rows("runbook", *_RUNBOOKS),
    *_rows("deploy_template", *_catalogue("deploy templates", SYSTEM_READER, SYSTEM_ADMIN, SYSTEM_ADMIN)),
    *_rows("inspection_rule", *_catalogue("inspection rules", SYSTEM_READER, SYSTEM_ADMIN, SYSTEM_ADMIN)),
    Rule("baremetal:inspection_rule:list_all", "List all inspection rules", SYSTEM_READER),
    *_rows("chassis", *_catalogue("chassis", SCOPED_READER, SCOPED_MEMBER, SCOPED_ADMIN)),
    Rule("baremetal:driver:get", "See drivers", SCOPED_READER),
    Rule("baremetal:driver:get_properties", "See the settings that a driver reads", SCOPED_READER),
    Rule("baremetal:driver:get_raid_logical_disk_properties", "See what logical disks may be made of", SCOPED_READER),
    Rule("baremetal:driver:vendor_passthru", "Call a vendor's method of a driver", SCOPED_ADMIN),
    Rule("baremetal:conductor:get", "See conductors", SYSTEM_READER),
    Rule("baremetal:shards:get", "See shards", SYSTEM_READER),
    Rule("baremetal:events:post", "Tell of the network", SCOPED_ADMIN),
    Rule("metald:boots:get", "See what the boot doctor saw of all machines (metald's own)", SYSTEM_READER),
    Rule("metald:metrics:get", "Read the numbers for Prometheus (metald's own)", SYSTEM_READER),
    Rule("baremetal:events:get", "Read events, of the nodes whose history is seen (metald's own)", ANY_READER),
)
"""Every rule, in the order of the reference page."""
