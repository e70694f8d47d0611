"""What each part has to tell as metrics. It knows the parts; they do not know it.

Everything is read at the moment of a scrape, and was counted before: a scrape looks at no node, workflow or BMC by itself, and costs
as much with ten as with ten thousand of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from metald.boot.dhcp.own import DhcpServer
from metald.boot.doctor import Doctor
from metald.boot.http import BootHttp
from metald.boot.tftp.server import TftpServer
from metald.drivers.ipmi.hub import IpmiHub
from metald.limits import Bandwidth, Limits
from metald.metrics import Family, Source
from metald.model import Event, Node, Workflow
from metald.store.store import Store


def fleet(store: Store) -> Source:
    """Nodes, workflows, events, and the store itself."""

    def families() -> Iterator[Family]:
        states: Counter[str] = Counter()
        faults: Counter[str] = Counter()
        maintenance = 0
        for (state, in_maintenance, fault), count in store.table(Node).counts.items():
            states[state] += count
            maintenance += count if in_maintenance else 0
            if fault:
                faults[fault] += count
        yield Family("nodes", "gauge", "Nodes by provision state.", _by("state", states))
        yield Family.one("nodes_in_maintenance", "gauge", "Nodes in maintenance.", maintenance)
        yield Family("nodes_with_fault", "gauge", "Nodes by fault.", _by("fault", faults))
        flows = sorted(store.table(Workflow).counts.items())
        samples = [({"kind": kind, "state": state}, float(count)) for (kind, state), count in flows if not state.ended]
        yield Family("workflows", "gauge", "Workflows that have not ended, by kind and state.", samples)
        yield Family.one("event_sequence", "gauge", "Sequence number of the newest event.", store.last_seq)
        yield Family.one("store_changes", "counter", "Changes that were committed.", store.changes)
        yield Family.one("store_batches", "counter", "Transactions in which they were committed.", store.batches)
        yield Family.one("store_commit_seconds", "histogram", "Seconds that a transaction took.", store.commit_seconds)

    return families


def events(store: Store) -> Source:
    """Events since the start by type, and how long steps took."""
    seen: Counter[str] = Counter()
    steps: Counter[str] = Counter()

    def count(committed: Sequence[Event]) -> None:
        for event in committed:
            seen[event.type] += 1
            if event.type == "node.step" and "outcome" in event.data:
                steps[event.data["outcome"]] += 1

    store.subscribe(count)

    def families() -> Iterator[Family]:
        yield Family("events", "counter", "Events since the daemon started, by type.", _by("type", seen))
        yield Family("steps", "counter", "Steps that ended since the daemon started, by outcome.", _by("outcome", steps))

    return families


def queues(limits: Limits) -> Source:
    """What is waited for."""

    def families() -> Iterator[Family]:
        each = [({"limit": queue.setting}, queue) for queue in limits.queues]
        yield Family("limit_waiting", "gauge", "How many wait, by the setting that limits.", [(k, len(q)) for k, q in each])
        text = "Seconds that the first of those who wait has waited."
        yield Family("limit_longest_wait_seconds", "gauge", text, [(k, q.longest()) for k, q in each])
        yield Family("limit_waits", "counter", "How many have waited.", [(k, q.passed) for k, q in each])
        yield Family("limit_waited_seconds", "counter", "Seconds that they waited, in all.", [(k, q.waited) for k, q in each])

    return families


def bmcs(hub: IpmiHub) -> Source:
    """Logins to BMCs, sessions with them, and what came from elsewhere."""

    def families() -> Iterator[Family]:
        yield Family.one("ipmi_logins_in_flight", "gauge", "Logins to BMCs in flight.", hub.window.taken)
        yield Family.one("ipmi_login_window", "gauge", "Most logins in flight at once, as adapted now.", hub.window.limit)
        yield Family.one("ipmi_logins", "counter", "Logins to BMCs that succeeded.", hub.logins)
        yield Family.one("ipmi_sessions", "gauge", "Sessions with BMCs that are open or being opened.", hub.sessions)
        yield Family.one("ipmi_left_alone", "gauge", "BMCs that power sync leaves alone for a while, because they failed.", hub.left_alone)
        yield Family.one("ipmi_strays", "counter", "Datagrams that came from no BMC that is known.", hub.strays)

    return families


def dhcp(server: DhcpServer) -> Source:
    """What the DHCP server answered."""

    def families() -> Iterator[Family]:
        yield Family("dhcp_answers", "counter", "DHCP answers sent, by kind.", _by("kind", server.answered))

    return families


def tftp(server: TftpServer) -> Source:
    """TFTP transfers."""

    def families() -> Iterator[Family]:
        yield Family.one("tftp_transfers_running", "gauge", "TFTP transfers that run.", server.transfers)
        yield Family("tftp_transfers", "counter", "TFTP transfers that ended, by how.", _by("outcome", server.ended))
        yield Family.one("tftp_bytes", "counter", "Bytes of files sent by TFTP.", server.bytes)
        yield Family.one("tftp_retransmits", "counter", "Blocks sent again by TFTP.", server.retransmits)

    return families


def boot_http(server: BootHttp) -> Source:
    """The boot HTTP server."""
    bandwidth: Bandwidth = server.bandwidth

    def families() -> Iterator[Family]:
        answers = Counter({str(status): count for status, count in server.served.items()})
        yield Family("boot_http_answers", "counter", "Answers of the boot HTTP server by status.", _by("status", answers))
        yield Family.one("boot_http_file_bytes", "counter", "Bytes of files and images that the boot HTTP server let out.", bandwidth.bytes)

    return families


def boots(doctor: Doctor) -> Source:
    """Boots over the network."""

    def families() -> Iterator[Family]:
        yield Family.one("boots_under_way", "gauge", "Boots of nodes over the network that have not come to their end.", doctor.boots)
        yield Family("boots_stopped", "counter", "Boots that stopped, by the likely cause.", _by("cause", doctor.stopped))
        yield Family("boot_warnings", "counter", "Warnings of the boot doctor about boots that may go on.", _by("cause", doctor.warned))

    return families


def _by(label: str, counted: Counter[str]) -> list[tuple[dict[str, str], float]]:
    return [({label: str(value)}, float(count)) for value, count in sorted(counted.items())]
