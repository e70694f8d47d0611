"""driver_info of the hardware type `ssh`: what is taken, what is refused and how, and that secrets are masked."""

from __future__ import annotations

from typing import Any

import asyncssh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metald.drivers.ssh_host.info import PROPERTIES, check_key, parse
from metald.errors import Invalid
from metald.model import Node
from metald.model.masking import MASK, masked

GOOD = {"ssh_address": "hv1", "ssh_username": "metald", "ssh_password": "p", "ssh_virt_type": "virsh", "ssh_machine": "vm1"}
KEY = asyncssh.generate_private_key("ssh-ed25519")


def read(**changes: Any) -> Any:
    info = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    return parse(Node(driver="ssh", name="n", driver_info=info))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ssh_address": None}, "ssh_address"),
        ({"ssh_address": "-oProxyCommand=x"}, "ssh_address"),
        ({"ssh_address": "a b"}, "ssh_address"),
        ({"ssh_username": None}, "ssh_username"),
        ({"ssh_username": "-l"}, "ssh_username"),
        ({"ssh_password": None}, "ssh_password"),
        ({"ssh_key_contents": "x"}, "exactly one credential"),
        ({"ssh_password": None, "ssh_key_filename": "../key"}, "ssh_key_filename"),
        ({"ssh_virt_type": "vmware"}, "ssh_virt_type"),
        ({"ssh_virt_type": "qemu"}, "ssh_qmp_socket"),
        ({"ssh_virt_type": "qemu", "ssh_qmp_socket": "/run/a;b"}, "ssh_qmp_socket"),
        ({"ssh_port": 70000}, "ssh_port"),
        ({"ssh_terminal_port": "x"}, "ssh_terminal_port"),
        ({"ssh_terminal_socket": "run"}, "ssh_terminal_socket"),
        ({"ssh_libvirt_uri": "qemu:///system; reboot"}, "ssh_libvirt_uri"),
        ({"ssh_libvirt_uri": "--help"}, "ssh_libvirt_uri"),
        ({"ssh_machine": "a\nb"}, "ssh_machine"),
        ({"ssh_machine": ["a"]}, "ssh_machine"),
        ({"ssh_host_key": "ssh-ed25519 nonsense"}, "ssh_host_key"),
        ({"ssh_host_key": "# only a remark"}, "ssh_host_key"),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(Invalid, match=named) as error:
        read(**changes)
    assert error.value.field == "driver_info"
    assert error.value.remedy


def test_host_keys_are_taken_as_ssh_keyscan_prints_them() -> None:
    text = KEY.export_public_key().decode().strip()
    found = read(ssh_host_key=f"# hv1:22 SSH-2.0\nhv1 {text}\n{text} remark\n").host.host_keys
    assert found == (" ".join(text.split()[:2]),) * 2


def test_a_key_that_cannot_be_used_is_refused_without_being_shown() -> None:
    for text in ("hidden words", KEY.export_private_key(passphrase="x").decode()):
        with pytest.raises(Invalid, match="ssh_key_contents") as error:
            check_key(read(ssh_password=None, ssh_key_contents=text))
        assert text not in str(error.value)
    check_key(read(ssh_password=None, ssh_key_contents=KEY.export_private_key().decode()))


def test_secrets_are_masked_in_the_api() -> None:
    shown = masked({"ssh_password": "a", "ssh_key_contents": "b", "ssh_host_key": "c", "ssh_key_filename": "d"})
    assert shown == {"ssh_password": MASK, "ssh_key_contents": MASK, "ssh_host_key": "c", "ssh_key_filename": "d"}


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(sorted(PROPERTIES)), st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.lists(st.text())))
)
def test_anything_is_taken_or_refused(changes: dict[str, Any]) -> None:
    try:
        found = read(**changes)
    except Invalid:
        return
    assert found.host.username
