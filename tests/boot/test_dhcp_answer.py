"""What DHCP requests are answered, as a proxy and with leases; and who gets which address."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metald.boot.dhcp import packet
from metald.boot.dhcp.answer import BINL_PORT, SERVER_PORT, Answer, Answers, BootFile
from metald.boot.dhcp.leases import OFFERED, Leases, Range, parse_range
from metald.boot.dhcp.machine import Machine
from metald.boot.dhcp.packet import NOWHERE, Kind, Option, Packet
from metald.config import ConfigError

OWN = IPv4Address("10.9.0.1")
RANGE = "10.9.0.50-10.9.0.53/24 via 10.9.0.1"
PXE = {Option.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003016", Option.ARCHITECTURE: b"\0\7", Option.MACHINE: bytes(17)}
HTTP = {Option.VENDOR_CLASS: b"HTTPClient:Arch:00016:UNDI:003001", Option.ARCHITECTURE: b"\0\x10"}
IPXE = {Option.VENDOR_CLASS: b"PXEClient:Arch:00000:UNDI:002001", Option.USER_CLASS: b"iPXE", Option.IPXE: b"\xb0\1\1"}


def card(number: int = 1) -> bytes:
    return bytes((0x52, 0x54, 0, 0, 0, number))


def ask(kind: Kind, options: dict[int, bytes] | None = None, number: int = 1, **fields: object) -> Packet:
    return Packet(packet.REQUEST, 77, card(number), kind, options or {}, **fields)  # type: ignore[arg-type]


def file(asker: Machine, own: IPv4Address) -> BootFile | str:
    names = {"ipxe": f"http://{own}/boot.ipxe", "http": f"http://{own}/{asker.family}.efi"}
    return BootFile(own, names.get(asker.firmware, f"{asker.family}.efi")) if asker.family else "no loader"


def proxy() -> Answers:
    return Answers(file, lambda mac: (mac[-1] != "9", mac[-1] != "8"))


def server(text: str = RANGE) -> Answers:
    return Answers(file, lambda mac: (mac[-1] != "9", mac[-1] != "8"), Leases([parse_range(text)], 600), (OWN,))


def asked(answers: Answers, request: Packet, port: int = SERVER_PORT, now: float = 1000.0) -> Answer:
    answer = answers.answer(packet.parse(packet.encode(request)), OWN, port, now)
    assert answer is not None
    return answer


def reply(answer: Answer) -> Packet:
    assert answer.reply is not None
    return packet.parse(packet.encode(answer.reply))


def test_a_proxy_tells_the_boot_file_and_no_address() -> None:
    answer = asked(proxy(), ask(Kind.DISCOVER, PXE))
    found = reply(answer)
    assert (found.kind, found.yours, found.server, found.file, answer.to) == (Kind.OFFER, NOWHERE, OWN, b"x86_64.efi", "everybody")
    assert found.options == {
        Option.SERVER: OWN.packed,
        Option.MACHINE: bytes(17),
        Option.BOOT_FILE: b"x86_64.efi",
        Option.TFTP_SERVER: b"10.9.0.1",
        Option.VENDOR_CLASS: b"PXEClient",
        Option.VENDOR_SPECIFIC: b"\6\1\x08\xff",
    }
    assert (answer.file, answer.error, bool(answer.machine.id)) == ("x86_64.efi", "", True)


def test_a_proxy_answers_the_second_question_where_it_came_from() -> None:
    answer = asked(proxy(), ask(Kind.REQUEST, PXE, client=IPv4Address("10.9.0.77")), BINL_PORT)
    found = reply(answer)
    assert (found.kind, found.client, found.file, answer.to) == (Kind.ACK, IPv4Address("10.9.0.77"), b"x86_64.efi", "sender")


def test_a_proxy_names_a_url_to_http_boot_and_to_ipxe() -> None:
    found = reply(asked(proxy(), ask(Kind.DISCOVER, HTTP)))
    assert (found.file, found.options[Option.VENDOR_CLASS]) == (b"http://10.9.0.1/x86_64.efi", b"HTTPClient")
    assert Option.TFTP_SERVER not in found.options
    found = reply(asked(proxy(), ask(Kind.DISCOVER, IPXE)))
    # Without this class iPXE takes the offer for none.
    assert (found.file, found.options[Option.VENDOR_CLASS]) == (b"http://10.9.0.1/boot.ipxe", b"PXEClient")


@pytest.mark.parametrize(
    ("request_", "port"),
    [
        (ask(Kind.DISCOVER), SERVER_PORT),
        (ask(Kind.DISCOVER, PXE, number=8), SERVER_PORT),
        (ask(Kind.REQUEST, PXE), SERVER_PORT),
        (ask(Kind.DISCOVER, PXE), BINL_PORT),
        (replace(ask(Kind.DISCOVER, PXE), op=packet.REPLY), SERVER_PORT),
        (replace(ask(Kind.DISCOVER, PXE), kind=0), SERVER_PORT),
        (replace(ask(Kind.DISCOVER, PXE), kind=99), SERVER_PORT),
        (ask(Kind.DISCOVER, {}, number=9), SERVER_PORT),
    ],
)
def test_a_proxy_is_silent(request_: Packet, port: int) -> None:
    assert proxy().answer(request_, OWN, port, 0.0) is None


def test_a_proxy_tells_whose_address_a_machine_takes() -> None:
    other = IPv4Address("10.9.0.66")
    answer = asked(proxy(), ask(Kind.REQUEST, {**PXE, Option.SERVER: other.packed}))
    assert (answer.reply, answer.asked, answer.server, answer.error) == (None, Kind.REQUEST, "10.9.0.66", "")
    assert proxy().answer(ask(Kind.REQUEST, {**PXE, Option.SERVER: OWN.packed}), OWN, SERVER_PORT, 0.0) is None
    assert proxy().answer(ask(Kind.REQUEST, {Option.SERVER: other.packed}), OWN, SERVER_PORT, 0.0) is None


def test_who_gets_no_answer_is_told_of() -> None:
    answer = asked(proxy(), ask(Kind.DISCOVER, PXE, number=9))
    assert (answer.reply, answer.error) == (None, "the machine is no port that boots from the network")
    answer = asked(proxy(), ask(Kind.DISCOVER, {**PXE, Option.ARCHITECTURE: b"\0\6"}))
    assert (answer.reply, answer.error) == (None, "no loader")


def test_an_address_is_offered_granted_and_leased_on() -> None:
    answers = server()
    offer = reply(asked(answers, ask(Kind.DISCOVER, IPXE)))
    assert (offer.kind, offer.file) == (Kind.OFFER, b"http://10.9.0.1/boot.ipxe")
    assert offer.options[Option.NETMASK] == b"\xff\xff\xff\0"
    assert offer.options[Option.ROUTER] == offer.options[Option.DNS] == offer.options[Option.SERVER] == OWN.packed
    assert offer.options[Option.IPXE] == b"\xb0\1\1\xff"
    assert Option.VENDOR_CLASS not in offer.options
    assert [int.from_bytes(offer.options[code]) for code in (51, 58, 59)] == [600, 300, 525]
    chosen = {Option.ADDRESS: offer.yours.packed, Option.SERVER: OWN.packed}
    ack = reply(asked(answers, ask(Kind.REQUEST, chosen)))
    assert (ack.kind, ack.yours, ack.file) == (Kind.ACK, offer.yours, b"")
    renewed = asked(answers, ask(Kind.REQUEST, client=offer.yours), now=1500.0)
    assert (renewed.to, reply(renewed).kind, reply(renewed).client) == ("client", Kind.ACK, offer.yours)
    assert answers.leases is not None
    assert answers.leases.address_of("52:54:00:00:00:01", 2099.0) == offer.yours
    assert answers.leases.address_of("52:54:00:00:00:01", 2101.0) is None
    # Firmware, iPXE and the ramdisk of a machine get the same, whatever they say of themselves.
    assert reply(asked(answers, ask(Kind.DISCOVER, {61: b"other"}), now=1600.0)).yours == offer.yours


def test_a_card_that_must_not_boot_gets_an_address_alone() -> None:
    offer = reply(asked(server(), ask(Kind.DISCOVER, PXE, number=8)))
    assert offer.yours != NOWHERE
    assert (offer.file, offer.server) == (b"", NOWHERE)


def test_no_is_said_to_everybody() -> None:
    answers = server()
    for wrong in ("10.9.0.99", "192.168.1.1"):
        answer = asked(answers, ask(Kind.REQUEST, {Option.ADDRESS: IPv4Address(wrong).packed}))
        assert (reply(answer).kind, answer.to, reply(answer).flags) == (Kind.NAK, "everybody", packet.BROADCAST_FLAG)
    assert reply(asked(answers, ask(Kind.REQUEST))).kind == Kind.NAK
    taken = reply(asked(answers, ask(Kind.DISCOVER))).yours
    asked(answers, ask(Kind.REQUEST, {Option.ADDRESS: taken.packed}))
    answer = asked(answers, ask(Kind.REQUEST, {Option.ADDRESS: taken.packed}, number=2))
    assert reply(answer).kind == Kind.NAK


def test_another_server_is_told_of() -> None:
    answers = server()
    asked(answers, ask(Kind.DISCOVER))
    answer = asked(answers, ask(Kind.REQUEST, {Option.SERVER: b"\x0a\x09\0\2"}))
    assert (answer.reply, answer.error) == (None, "the machine took the offer of another DHCP server, 10.9.0.2")


def test_addresses_come_to_an_end() -> None:
    answers = server()
    got = {reply(asked(answers, ask(Kind.DISCOVER, number=number))).yours for number in range(1, 5)}
    assert len(got) == 4
    assert "no address is left" in asked(answers, ask(Kind.DISCOVER, number=5)).error
    # What was offered and not taken is free again after a while.
    assert reply(asked(answers, ask(Kind.DISCOVER, number=5), now=1001.0 + OFFERED)).yours in got


def test_an_address_that_somebody_uses_is_not_given_again() -> None:
    answers = server()
    taken = reply(asked(answers, ask(Kind.DISCOVER))).yours
    asked(answers, ask(Kind.REQUEST, {Option.ADDRESS: taken.packed}))
    assert "somebody else uses" in asked(answers, ask(Kind.DECLINE, {Option.ADDRESS: taken.packed})).error
    others = {reply(asked(answers, ask(Kind.DISCOVER, number=number))).yours for number in range(1, 4)}
    assert taken not in others
    assert len(others) == 3


def test_an_address_is_given_back() -> None:
    answers = server()
    taken = reply(asked(answers, ask(Kind.DISCOVER))).yours
    asked(answers, ask(Kind.REQUEST, {Option.ADDRESS: taken.packed}))
    assert answers.answer(ask(Kind.RELEASE, number=2, client=taken), OWN, SERVER_PORT, 1000.0) is None
    assert answers.leases is not None
    assert answers.leases.address_of("52:54:00:00:00:01", 1000.0) == taken
    answers.answer(ask(Kind.RELEASE, client=taken), OWN, SERVER_PORT, 1000.0)
    assert answers.leases.address_of("52:54:00:00:00:01", 1000.0) is None


def test_through_a_relay() -> None:
    answers = Answers(file, lambda _: (True, True), Leases([parse_range("10.7.0.9-10.7.0.9/16")], 600))
    answer = asked(answers, ask(Kind.DISCOVER, {Option.RELAY: b"\1\2ab"}, relay=IPv4Address("10.7.0.1")))
    assert (answer.to, reply(answer).relay, reply(answer).options[Option.RELAY]) == ("relay", IPv4Address("10.7.0.1"), b"\1\2ab")
    assert "no range for the network of 10.9.0.1" in asked(answers, ask(Kind.DISCOVER)).error


def test_who_has_an_address_may_ask_for_the_rest() -> None:
    answer = asked(server(), ask(Kind.INFORM, PXE, client=IPv4Address("10.9.0.200")))
    found = reply(answer)
    assert (found.kind, found.yours, answer.to) == (Kind.ACK, NOWHERE, "client")
    assert Option.LEASE_TIME not in found.options


def test_leases_outlive_a_restart() -> None:
    first = Leases([parse_range(RANGE)], 600)
    within = first.ranges[0]
    address = first.offer("a", None, within, OWN, 0.0)
    assert address is not None
    assert first.dump() == []
    assert first.take("a", address, within, OWN, 0.0)
    second = Leases([parse_range(RANGE)], 600)
    second.load([*first.dump(), {"address": "10.8.0.1", "mac": "b", "until": 1e12}])
    assert second.address_of("a", 1.0) == address
    assert second.dump() == first.dump()
    for broken in ([{}], [{"address": "10.9.0.50", "mac": "a", "until": "x"}]):
        with pytest.raises(ValueError, match=r"lease|ddress|ctet|Expected|None"):
            second.load(broken)


def test_everything_forgotten_the_same_address_comes_back() -> None:
    within = parse_range("10.9.0.50-10.9.0.250/24")
    first, second = (Leases([within], 600).offer("52:54:00:00:00:07", None, within, OWN, 0.0) for _ in range(2))
    assert first == second


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "take", "release", "decline", "refused"]), st.integers(0, 7), st.integers(48, 56), st.floats(0, 400)
    ),
    max_size=60,
)


@given(STEPS)
def test_no_two_hold_one_address(steps: list[tuple[str, int, int, float]]) -> None:
    within: Range = parse_range(RANGE)
    leases = Leases([within], 600)
    now = 0.0
    for what, who, last, later in steps:
        now += later
        mac, address = f"m{who}", IPv4Address(f"10.9.0.{last}")
        if what == "offer":
            given_ = leases.offer(mac, address, within, OWN, now)
            assert given_ is None or given_ in within
        elif what == "take":
            holders = {leases.address_of(f"m{other}", now): f"m{other}" for other in range(8)}
            if leases.take(mac, address, within, OWN, now):
                assert holders.get(address, mac) == mac
        elif what == "refused":
            leases.refused(mac)
        elif what == "release":
            leases.release(mac, address)
        else:
            leases.decline(mac, address, now)
        held = [found for other in range(8) if (found := leases.address_of(f"m{other}", now)) is not None]
        assert len(held) == len(set(held))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1",
        "10.0.0.9-10.0.0.1/24",
        "10.0.0.1-10.0.1.1/24",
        "10.0.0.1-10.0.0.9/33",
        "10.0.0.0-10.0.0.9/24",
        "10.0.0.5-10.0.0.255/24",
        "10.0.0.5-10.0.0.9/24 via 10.1.0.1",
        "10.0.0.1-10.200.0.1/8",
        "300.0.0.1-300.0.0.2/24",
    ],
)
def test_ranges_that_are_wrong(text: str) -> None:
    with pytest.raises(ConfigError, match=r"dhcp\.ranges"):
        parse_range(text)
