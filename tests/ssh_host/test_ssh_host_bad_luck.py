"""Hosts that are not who they should be, refuse, hang, go away and come back; all with Debian's sshd and a program of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncssh
import pytest

from metald.drivers.ssh_host.hosts import Hosts, background
from metald.drivers.ssh_host.info import HostInfo, parse
from metald.drivers.ssh_host.power import SshPower
from metald.errors import DriverError, HostAuthFailed, HostRefused, HostUnreachable, MetaldError
from metald.model import PowerState, PowerTarget
from tests.support.hypervisor import HypervisorHost, eventually, hosts, hypervisor, quick
from tests.support.qemu import free_port

VIRSH = """
import os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
state = os.path.join(here, "state")
with open(os.path.join(here, "calls"), "a") as calls: calls.write(repr(sys.argv[1:]) + chr(10))
mode = open(os.path.join(here, "mode")).read()
while mode == "hang" and os.path.exists(__file__): time.sleep(0.1)  # nobody tells a command that its host is gone
if mode == "flood":
    while True: sys.stdout.write("x" * 65536)
verb = sys.argv[4]
on = os.path.exists(state)
if verb.startswith("list"):
    print("8cde8689-cd1a-45ec-ab07-901f06f5b570 vm")
    print("Domain: 'vm'")
    print("  state.state=" + ("1" if on else "5"))
elif verb == "start":
    if mode == "stuck": sys.exit(0)
    open(state, "w").close()
elif verb == "destroy": os.unlink(state)
elif verb == "dumpxml": print("<domain><uuid>8cde8689-cd1a-45ec-ab07-901f06f5b570</uuid><os/></domain>")
"""


@pytest.fixture
def host() -> Iterator[HypervisorHost]:
    with hypervisor() as made:
        (made.bin / "mode").write_text("")
        made.program("virsh", VIRSH)
        yield made


def calls(host: HypervisorHost) -> list[str]:
    return (host.bin / "calls").read_text().splitlines()


def mode(host: HypervisorHost, text: str) -> None:
    (host.bin / "mode").write_text(text)


async def state(made: Hosts, host: HypervisorHost, **driver_info: Any) -> PowerState:
    return await SshPower(made).get_power_state(host.context(**{"ssh_machine": "vm", **driver_info}))


async def test_a_host_with_another_key_is_not_spoken_to(host: HypervisorHost) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    async with hosts() as made:
        with pytest.raises(HostAuthFailed, match="ssh_host_key"):
            await state(made, host, ssh_host_key=other)
        with pytest.raises(HostAuthFailed, match=r"drivers\.ssh_host\.known_hosts"):
            await state(made, host, ssh_host_key=None)
    assert not (host.bin / "calls").exists()


async def test_a_host_is_known_by_the_file_of_known_hosts_as_it_is_now(host: HypervisorHost) -> None:
    path = host.folder / "known"
    async with hosts(known_hosts=str(path)) as made:
        path.write_text(f"[127.0.0.1]:{host.port} {asyncssh.generate_private_key('ssh-ed25519').export_public_key().decode()}")
        with pytest.raises(HostAuthFailed):
            await state(made, host, ssh_host_key=None)
        path.write_text(f"[127.0.0.1]:{host.port} {host.host_key.export_public_key().decode()}")
        assert await state(made, host, ssh_host_key=None) is PowerState.OFF


async def test_a_key_that_is_not_let_in_is_said_to_be_refused(host: HypervisorHost) -> None:
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    async with hosts() as made:
        with pytest.raises(HostAuthFailed, match="ssh_key_contents") as error:
            await state(made, host, ssh_key_contents=stranger)
        assert "PRIVATE KEY" not in str(error.value)
        with pytest.raises(HostAuthFailed, match="ssh_password") as error:
            await state(made, host, ssh_key_contents=None, ssh_password="tell-nobody")
        assert "tell-nobody" not in str(error.value)


async def test_a_key_may_be_in_a_file(host: HypervisorHost) -> None:
    async with hosts() as made:
        assert await state(made, host, ssh_key_contents=None, ssh_key_filename=str(host.folder / "client")) is PowerState.OFF
        for wrong in (host.folder / "nothing", "/dev/zero", host.bin / "mode", host.folder):
            with pytest.raises(HostAuthFailed, match="ssh_key_filename"):
                await state(made, host, ssh_key_contents=None, ssh_key_filename=str(wrong))


@contextlib.asynccontextmanager
async def password_host(key: asyncssh.SSHKey) -> AsyncIterator[int]:
    """An SSH server that asks for a password, and answers as virsh."""

    class Server(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == ("metald", "s3cret")

    def answer(process: asyncssh.SSHServerProcess[str]) -> None:
        process.stdout.write("8cde8689-cd1a-45ec-ab07-901f06f5b570 vm\nDomain: 'vm'\n  state.state=1\n")
        process.exit(0)

    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key], process_factory=answer)
    try:
        yield server.get_port()
    finally:
        server.close()
        await server.wait_closed()


async def test_a_password_lets_in_and_a_wrong_one_does_not(host: HypervisorHost) -> None:
    async with password_host(host.host_key) as port, hosts() as made:
        who: dict[str, Any] = {"ssh_username": "metald", "ssh_key_contents": None, "ssh_port": port}
        with pytest.raises(HostAuthFailed, match="ssh_password"):
            await state(made, host, ssh_password="wrong", **who)
        assert await state(made, host, ssh_password="s3cret", **who) is PowerState.ON


async def test_a_host_that_is_away_costs_one_attempt_and_comes_back(host: HypervisorHost) -> None:
    async with hosts(pause=0.2) as made:
        assert await state(made, host) is PowerState.OFF
        host.cut()
        found = await asyncio.gather(*(state(made, host) for _ in range(200)), return_exceptions=True)
        assert all(isinstance(error, HostUnreachable) for error in found)
        host.start()
        await asyncio.sleep(0.2)
        assert await state(made, host) is PowerState.OFF


async def test_a_connection_that_was_lost_meanwhile_is_opened_again(host: HypervisorHost) -> None:
    async with hosts() as made:
        for _ in range(3):
            assert await state(made, host) is PowerState.OFF
            host.restart()


async def test_a_host_that_goes_in_the_middle_of_a_command_is_lost(host: HypervisorHost) -> None:
    async with hosts(connect_timeout=2.0) as made:
        assert await state(made, host) is PowerState.OFF
        mode(host, "hang")
        before = len(calls(host))
        asking = asyncio.create_task(state(made, host))
        await eventually(lambda: len(calls(host)) > before)
        host.cut()
        with pytest.raises(HostUnreachable):
            await asking


async def test_a_command_that_hangs_ends_at_its_deadline_and_holds_nobody_else_up(host: HypervisorHost) -> None:
    async with hosts(command_timeout=3.0) as made:
        mode(host, "hang")
        hung = [asyncio.create_task(state(made, host)) for _ in range(3)]
        assert all(isinstance(error, HostUnreachable) for error in await asyncio.gather(*hung, return_exceptions=True))
        with pytest.raises(HostUnreachable, match=r"did not end in 3 seconds"):
            await state(made, host)
        mode(host, "")
        for one in made._hosts.values():
            one.settings = quick(command_timeout=60.0)  # a busy machine may take its time for what does not hang
        assert await state(made, host) is PowerState.OFF


async def test_a_flood_of_output_is_cut(host: HypervisorHost) -> None:
    async with hosts() as made:
        mode(host, "flood")
        with pytest.raises(HostUnreachable, match="bytes came"):
            await state(made, host)


async def test_a_machine_that_does_not_come_on_is_said_so(host: HypervisorHost) -> None:
    async with hosts() as made:
        mode(host, "stuck")
        with pytest.raises(MetaldError, match=r"after 0\.5 s the machine is not at 'power on'"):
            await SshPower(made).set_power_state(host.context(ssh_machine="vm"), PowerTarget.ON, timeout=0.5)


async def test_software_that_is_not_on_the_host_is_named(host: HypervisorHost) -> None:
    async with hosts() as made:
        with pytest.raises(HostRefused, match="Install prlctl"):
            await state(made, host, ssh_virt_type="parallels")


async def test_two_hundred_machines_are_asked_for_by_few_commands(host: HypervisorHost) -> None:
    async with hosts(listing_age=30.0) as made:
        with background():
            await asyncio.gather(*(state(made, host) for _ in range(200)))
        assert len(calls(host)) <= 2
        await asyncio.gather(*(state(made, host) for _ in range(200)))  # these want to know exactly
        assert len(calls(host)) <= 4


async def test_an_unused_connection_is_closed(host: HypervisorHost) -> None:
    async with hosts(idle=0.1) as made:
        assert await state(made, host) is PowerState.OFF
        running = asyncio.create_task(made.run())
        await eventually(lambda: not made._hosts)
        running.cancel()
        await asyncio.wait([running])
        assert await state(made, host) is PowerState.OFF


async def test_a_cancelled_question_takes_the_answer_from_nobody(host: HypervisorHost) -> None:
    async with hosts() as made:
        first, second = (asyncio.create_task(state(made, host)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second is PowerState.OFF


async def test_nobody_at_the_address(host: HypervisorHost) -> None:
    async with hosts() as made:
        with pytest.raises(HostUnreachable, match="ssh_address"):
            await state(made, host, ssh_port=free_port())


def test_secrets_do_not_show(host: HypervisorHost) -> None:
    info = parse(host.context(ssh_machine="vm").node)
    assert "PRIVATE" not in repr(info)
    assert "hush" not in repr(HostInfo("a", "b", password="hush"))
    assert issubclass(HostRefused, DriverError)
