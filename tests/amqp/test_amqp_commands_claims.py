"""Signed claims: what holds lets in as the API's rules say, and whatever does not hold is refused with the reason."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.amqp.commands.callers import Callers
from metald.amqp.commands.claims import HEADER, Claims
from metald.config import Commands, ConfigError
from metald.errors import NotAllowed
from metald.model import Node
from tests.support.commanding import Place, commanded, producing
from tests.support.signing import SECRET, claims, encoded, keys_file, token

BODY = b'{"driver": "fake-hardware"}'
CI = {"roles": ["member"], "project": "p1"}


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Claims:
    return Claims(str(keys_file(tmp_path_factory.mktemp("keys"))))


def _said(**more: Any) -> dict[str, Any]:
    return claims("1", "node.create", BODY, **more)


def test_what_holds_is_a_caller(checker: Claims) -> None:
    ops = checker.read(token(_said(roles=["admin"], system=True)).encode())
    caller = ops.caller("amqp-x")
    assert (caller.user, caller.roles, caller.system, caller.project) == ("ann", ("admin",), True, None)
    ci = checker.read(token(_said(**CI), kid="ci")).caller("amqp-x")
    assert (ci.roles, ci.system, ci.project) == (("member",), False, "p1")
    ops.check_about("1", "node.create", BODY)
    ops.check_time(time.time())


@pytest.mark.parametrize(
    ("forged", "word"),
    [
        (17, "no compact token"),
        ("a.b", "no compact token"),
        ("x" * 9000, "no compact token"),
        ("a.b.c", "header cannot be read"),
        ("ä.b.c", "header cannot be read"),
        (token(_said(), kid="stranger"), "is not known"),
        (token(_said(**CI), kid="ci", alg="none"), "not for 'none'"),
        (token(_said(**CI), kid="ci", alg="EdDSA"), "not for 'EdDSA'"),
        (token(_said(**CI), kid="ci", secret=b"x" * 32), "signature is wrong"),
        (token(_said(roles=["admin"]))[:-4] + "AAAA", "signature is wrong"),
        (token(b"{"), "cannot be read"),
        (token({"sub": "ann"}), "cannot be read"),
        (token(_said(sub="")), "cannot be read"),
        (token(_said(roles=["admin"]), kid="ci"), "may not give the role 'admin'"),
        (token(_said(roles=["member"], system=True), kid="ci"), "whole system"),
        (token(_said(roles=["member"], project="p2"), kid="ci"), "project 'p2'"),
        (token(_said(roles=["member"]), kid="ci"), "project None"),
    ],
)
def test_what_does_not_hold_is_refused_with_the_reason(checker: Claims, forged: Any, word: str) -> None:
    with pytest.raises(NotAllowed) as raised:
        checker.read(forged)
    assert word in str(raised.value)
    assert raised.value.field == HEADER


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_nothing_gets_through_by_chance(checker: Claims, noise: Any) -> None:
    for found in (noise, f"{token(_said()).partition('.')[0]}.{encoded(BODY)}.{noise!r}"):
        with pytest.raises(NotAllowed):
            checker.read(found)


@pytest.mark.parametrize(
    ("other", "named"), [(("2", "node.create", BODY), "jti"), (("1", "node.delete", BODY), "verb"), (("1", "node.create", b"{}"), "body")]
)
def test_a_claim_is_for_one_message(checker: Claims, other: tuple[str, str, bytes], named: str) -> None:
    claim = checker.read(token(_said(roles=["admin"])))
    with pytest.raises(NotAllowed, match=f"its {named} does not fit"):
        claim.check_about(*other)


def test_a_claim_has_its_time(checker: Claims) -> None:
    claim = checker.read(token(_said(exp=1000.0, nbf=500.0)))
    claim.check_time(471.0)
    with pytest.raises(NotAllowed, match="not valid yet"):
        claim.check_time(469.0)
    with pytest.raises(NotAllowed, match="ended 5 s ago"):
        claim.check_time(1005.0)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[", "cannot be used"),
        ('[a]\nalgorithm = "RS256"\nroles = []', "cannot be used"),
        ('[a]\nalgorithm = "HS256"\nsecret = "!"\nroles = []', "not base64"),
        ('[a]\nalgorithm = "HS256"\nsecret = "c2hvcnQ="\nroles = []', "has 5 bytes"),
        ('[a]\nalgorithm = "EdDSA"\npublic_key = "x"\nroles = []', "no PEM public key"),
    ],
)
def test_a_file_of_keys_that_cannot_work_is_named(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"amqp.commands.keys.*{word}"):
        Claims(str(path))


def test_the_example_of_the_how_to_is_taken(checker: Claims) -> None:
    page = (Path(__file__).parents[2] / "docs/howto/commands.md").read_text()
    example = re.search(r"```python claim\n(.*?)```", page, re.DOTALL)
    assert example is not None
    names: dict[str, Any] = {}
    exec(example[1], names)
    claim = checker.read(names["claim"](SECRET, "ci", "1", "node.create", BODY, sub="ann", **CI))
    claim.check_about("1", "node.create", BODY)
    claim.check_time(time.time())


def test_without_keys_a_claim_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(NotAllowed, match="not taken here"):
        Callers(Commands()).claim("a.b.c")
    with pytest.raises(NotAllowed, match="does not say who"):
        Callers(Commands(keys=str(keys_file(tmp_path)))).of(None, "x")
    with pytest.raises(NotAllowed, match="'guest' may not send"):
        Callers(Commands(keys=str(keys_file(tmp_path)))).of("guest", "x")


@pytest.mark.rabbit
async def test_claims_on_a_broker(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def signed(id_: str, *, kid: str = "ops", **more: Any) -> dict[str, str]:
        said: dict[str, Any] = {"roles": ["admin"], "system": True} if kid == "ops" else dict(CI)
        return {HEADER: token(claims(id_, "node.create", BODY, **{**said, **more}), kid=kid)}

    async with commanded(tmp_path, place, keys=str(keys_file(tmp_path))) as site, producing(place) as producer:
        nodes = site.api.house.store.table(Node)
        done = await producer.ask("node.create", "1", BODY, headers=signed("1"))
        assert done["status"] == "accepted"
        assert site.command("1").caller.user == "ann"
        # the same id from another sender is another command, and it may only what its roles may
        assert (await producer.ask("node.create", "1", BODY, headers=signed("1", kid="ci")))["code"] == 403
        assert (await producer.dead()).headers["cloudEvents:id"] == "1"
        bad: list[tuple[str, dict[str, str], str]] = [
            ("2", {}, "does not say who sent it"),
            ("3", signed("1"), "its jti does not fit"),
            ("4", signed("4", exp=time.time() - 5), "The claim ended"),
            ("5", {HEADER: signed("5")[HEADER][:-4] + "AAAA"}, "signature is wrong"),
        ]
        for id_, headers, word in bad:
            refused = await producer.ask("node.create", id_, BODY, headers=headers)
            assert (refused["status"], refused["code"]) == ("refused", 403)
            dead = await producer.dead()
            assert word in dead.headers["metald-reason"]
            assert (dead.headers["metald-code"], dead.body) == (refused["error"]["metald"]["code"], BODY)
            assert HEADER not in dead.headers
        assert len(nodes) == 1
        # what was taken in time has its answer, however late it comes again
        assert await producer.ask("node.create", "1", BODY, headers=signed("1", exp=time.time() - 5)) == done
        assert len(nodes) == 1
    async with commanded(tmp_path, place, keys=str(keys_file(tmp_path))) as site, producing(place) as producer:
        assert await producer.ask("node.create", "1", BODY, headers=signed("1", exp=time.time() - 5)) == done
        assert len(site.api.house.store.table(Node)) == 1
