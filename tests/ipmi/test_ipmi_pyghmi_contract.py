"""What metald relies on in pyghmi's private session class. When a new pyghmi fails here, look before raising the pin."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest
from pyghmi.ipmi.private import constants
from pyghmi.ipmi.private import session as pyghmi_session
from pyghmi.ipmi.private.session import Session

from metald.drivers.ipmi.plain_session import PlainSession
from metald.drivers.ipmi.session import BmcSession

CALLED = {
    "_get_channel_auth_cap": ["self"],
    "_got_channel_auth_cap": ["self", "response"],
    "_open_rmcpplus_request": ["self"],
    "_got_rmcp_response": ["self", "data"],
    "_send_rakp1": ["self"],
    "_got_rakp4": ["self", "data"],
    "_handle_ipmi_packet": ["self", "data", "sockaddr", "qent"],
    "_handle_ipmi2_packet": ["self", "data"],
    "send_payload": ["self", "payload", "payload_type", "retry", "delay_xmit", "needskeepalive", "timeout"],
}
"""Methods of pyghmi that run inside our sessions, and their parameters."""

REPLACED = {
    "_initsession": ["self"],
    "_send_ipmi_net_payload": ["self", "netfn", "command", "data", "code", "bridge_request", "retry", "delay_xmit", "timeout", "rslun"],
    "_parse_ipmi_payload": ["self", "payload"],
    "_got_rakp2": ["self", "data"],
    "_xmit_packet": ["self", "retry", "delay_xmit", "timeout"],
    "onlogon": ["self", "parameter"],
    "_mark_broken": ["self", "error"],
    "_relog": ["self"],
    "_req_priv_level": ["self"],
    "_get_session_challenge": ["self"],
    "login": ["self"],
}
"""Methods that pyghmi calls and we replace."""

FIELDS = (
    "userid",
    "password",
    "kg",
    "kgo",
    "bmc",
    "port",
    "privlevel",
    "autopriv",
    "nameonly",
    "servermode",
    "broken",
    "logging",
    "logged",
    "onlogpayload",
    "onlogpayloadtype",
    "lastpayload",
    "_customkeepalives",
    "pendingpayloads",
    "request_entry",
    "sol_handler",
    "maxtimeout",
    "logontries",
)
"""Fields that pyghmi's constructor sets and its other methods read; ours sets them."""

STARTED = (
    "localsid",
    "attemptedhash",
    "currhashlib",
    "currhashlen",
    "k1",
    "rmcptag",
    "lastpayload",
    "ipmicallback",
    "sessioncontext",
    "sequencenumber",
    "sessionid",
    "authtype",
    "ipmiversion",
    "seqlun",
    "logging",
    "logged",
    "tabooseq",
    "remseqnumber",
    "integrityalgo",
    "confalgo",
    "aeskey",
    "sockaddr",
    "ipmi15only",
)
"""Fields that `_initsession` sets, which ours relies on."""

CONTEXTS = {"OPENSESSION", "EXPECTINGRAKP2", "EXPECTINGRAKP4", "ESTABLISHED", "FAILED"}


@pytest.mark.parametrize(("name", "parameters"), [*CALLED.items(), *REPLACED.items()])
def test_a_method_is_there_with_these_parameters(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(Session, name)).parameters) == parameters


def _assigned(function: object) -> set[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))  # type: ignore[arg-type]
    targets = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return {node.attr for node in targets if isinstance(node.value, ast.Name) and node.value.id == "self"}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_set_by_the_constructor(name: str) -> None:
    source = inspect.getsource(Session)
    assert f"self.{name}" in source


def test_the_fields_of_a_login_are_set_by_initsession() -> None:
    assert set(STARTED) <= _assigned(Session._initsession)


def test_the_contexts_are_spelt_so() -> None:
    source = inspect.getsource(Session)
    assert {context for context in CONTEXTS if f'"{context}"' in source or f"'{context}'" in source} == CONTEXTS


def test_our_own_names_are_none_of_pyghmis() -> None:
    """pyghmi keeps data in plain attributes: a method of ours with such a name would be overwritten (`timeout` is one)."""
    theirs = {name for name, value in vars(Session).items() if callable(value)}
    fields = set().union(*(_assigned(getattr(Session, name)) for name in theirs if inspect.isfunction(getattr(Session, name))))
    ours = {name for name in {**vars(PlainSession), **vars(BmcSession)} if not name.startswith("__")}
    assert not ours & fields
    assert ours & set(vars(Session)) == {
        *REPLACED,
        "_handle_ipmi_packet",
        "_handle_ipmi2_packet",
        "send_payload",
        "_got_channel_auth_cap",
        "_got_rmcp_response",
        "_got_rakp4",
    }


def test_no_socket_and_no_thread_is_made() -> None:
    assert pyghmi_session.iothread is None
    assert pyghmi_session.iosockets == []


def test_the_tables_of_words_are_there() -> None:
    assert constants.rmcp_codes[0x0D]
    assert constants.ipmi_completion_codes[0xC1]
    assert constants.command_completion_codes[0x01, 0x08]  # by the answer's netfn
    assert constants.payload_types["rakp3"] == 0x14
