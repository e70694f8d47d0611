"""Secrets are masked wherever they are nested; what is told of an event is the same whether a quick look found it open or not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.model import Event, ProvisionState
from metald.model.masking import MASK, is_plain, masked

KEYS = st.sampled_from(["to", "detail", "password", "ipmi_password", "Token", "image_url", "seconds", "url"]) | st.text(max_size=8)
TEXTS = st.sampled_from(["password=hunter2", "token: t0ps3cret", "http://me:hunter2@host/x", "12:30", "a=b"]) | st.text(max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | TEXTS | st.sampled_from(ProvisionState),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(data=st.dictionaries(KEYS, VALUES, max_size=6))
def test_what_is_plain_is_not_changed_by_masking(data: dict[str, Any]) -> None:
    if is_plain(data):
        assert masked(data) == data
    assert Event(type="node.step", data=data).shown == msgspec.json.encode(masked(data))


@pytest.mark.parametrize(
    "data",
    [
        {"password": "hunter2"},
        {"detail": "the address is http://me:hunter2@host/x"},
        {"detail": "tried with password=hunter2"},
        {"info": {"ipmi_password": "hunter2"}},
        {"several": [{"token": "hunter2"}]},
    ],
)
def test_a_secret_is_never_told(data: dict[str, Any]) -> None:
    assert not is_plain(data)
    told = Event(type="node.step", data=data).shown
    assert b"hunter2" not in told
    assert MASK.encode() in told


def test_what_events_mostly_tell_is_plain() -> None:
    assert is_plain({"from": ProvisionState.DEPLOYING, "to": ProvisionState.ACTIVE, "target": None, "seconds": 0.25, "ok": True})
    assert is_plain({"detail": "The BMC at [2001:db8::1]:623 answers.", "next": "deploy.deploy"})
