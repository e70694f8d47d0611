"""What `make conformance` installs is locked, and its identity service says what the suites read."""

from __future__ import annotations

import re

import pytest

from tests.conformance import identity, surroundings


@pytest.mark.parametrize("name", ["ansible", "collection", "ironicclient", "sdk", "tempest"])
def test_every_requirement_has_a_version_and_a_hash(name: str) -> None:
    text = (surroundings.HERE / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            assert re.fullmatch(r"\S+==\S+( +--hash=sha256:[0-9a-f]{64})+", line.strip()), line


def test_a_token_has_the_scope_that_was_asked_for() -> None:
    user = {"identity": {"password": {"user": {"name": "a"}}}}
    own, service = "http://127.0.0.1:1", "http://127.0.0.1:2"
    assert identity.token({**user, "scope": {"system": {"all": True}}}, own, service)["system"] == {"all": True}
    body = identity.token({**user, "scope": {"project": {"name": "p"}}}, own, service)
    assert body["project"]["name"] == "p"
    assert {e["url"] for s in body["catalog"] if s["type"] == "baremetal" for e in s["endpoints"]} == {service}
