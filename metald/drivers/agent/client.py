"""The API of an agent in a ramdisk: `/v1/commands`.

Rules: only the agent that gave its certificate with its heartbeats is spoken to, recognised by exactly that certificate; an
agent without one must have a certificate that the system trusts. Every request has a deadline, every answer a largest size,
and no redirect is followed. The token goes into no error text.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec

from metald.config import Agent as Settings
from metald.drivers.agent import callback
from metald.errors import DeployError, Invalid
from metald.model import Node

LARGEST = 96 << 20
"""Bytes of an answer; logs come as one."""
T = TypeVar("T")
_THREADED = 256 << 10
"""Bytes of JSON from which on decoding would hold up the loop."""


class AgentUnreachable(DeployError):
    """The agent did not answer; it may do so later."""

    code = "agent-unreachable"
    advice = "Look at the machine's console, and whether metald reaches the ramdisk's network."
    transient = True


class AgentBusy(DeployError):
    """Another command is running."""

    code = "agent-busy"
    advice = "metald waits for the command that runs."
    transient = True


class CommandFailed(DeployError):
    """The agent says that a command failed, or refuses it."""

    code = "agent-command"
    advice = "Read the agent's words; its logs are kept below agent.deploy_logs_dir."


class NotKnown(CommandFailed):
    """The agent knows no such command."""


class Command(msgspec.Struct, frozen=True):
    """One command of an agent, as the agent tells of it."""

    id: str
    command_name: str
    command_status: str
    """`RUNNING`, `SUCCEEDED`, `FAILED` or `CLEAN_VERSION_MISMATCH`."""
    command_error: Any = None
    command_result: Any = None

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self.command_status == "RUNNING"

    @property
    def error(self) -> str:
        """Why it failed, in the agent's words."""
        told = self.command_error
        if isinstance(told, Mapping):
            told = told.get("details") or told.get("message") or told.get("type")
        return str(told or "the agent gives no reason").strip()


class _Listed(msgspec.Struct, frozen=True):
    commands: list[Command]


@dataclass(frozen=True, slots=True)
class Target:
    """One boot of an agent, as its heartbeats told of it."""

    url: str
    token: str
    certificate: str
    label: str
    """What errors call the node."""

    @property
    def boot(self) -> str:
        """A public name for this boot, made from its token."""
        return hashlib.sha256(self.token.encode()).hexdigest()[:16]


def target(node: Node, allowed: Sequence[callback.Network]) -> Target:
    """The agent that last called for a node.

    Raises:
        AgentUnreachable: none has called.
        Invalid: metald shall not call where it says.
    """
    info = node.driver_internal_info
    url, token = info.get("agent_url"), info.get("agent_secret_token")
    if not url or not token:
        raise AgentUnreachable(f"Node {node.label}: no agent has called since the machine was started.")
    callback.permit(url, str(info.get("agent_called_from") or ""), allowed)
    return Target(str(url).rstrip("/"), str(token), str(info.get("agent_verify_ca") or ""), node.label)


class AgentClient:
    """Asks agents. Close it at the end.

    Args:
        settings: the section `agent`.
    """

    def __init__(self, settings: Settings) -> None:
        self._timeout = aiohttp.ClientTimeout(total=settings.command_timeout, connect=min(10.0, settings.command_timeout))
        self._session: aiohttp.ClientSession | None = None

    async def commands(self, agent: Target) -> list[Command]:
        """Every command of this boot, oldest first.

        Raises:
            AgentUnreachable: no answer.
            CommandFailed: the agent refuses.
        """
        data = await self._ask(agent, "GET", "/v1/commands/")
        return (await self._decoded(agent, data, _Listed)).commands

    async def command(self, agent: Target, ident: str) -> Command:
        """One command by its id, of the list of all where the agent tells of no single one. Raises like `commands`."""
        try:
            return await self._decoded(agent, await self._ask(agent, "GET", f"/v1/commands/{ident}"), Command)
        except NotKnown:
            found = next((one for one in await self.commands(agent) if one.id == ident), None)
            if found is None:
                raise
            return found

    async def run(self, agent: Target, name: str, params: Mapping[str, Any], *, wait: bool) -> Command:
        """Give a command.

        Args:
            agent: to whom.
            name: such as `standby.prepare_image`.
            params: its parameters.
            wait: whether the answer comes when it has ended.

        Raises:
            AgentBusy: another one is running.
            AgentUnreachable: no answer; the command may have been taken.
            CommandFailed: the agent refuses.
        """
        body = msgspec.json.encode({"name": name, "params": params})
        data = await self._ask(agent, "POST", "/v1/commands/", body=body, wait="true" if wait else "false")
        return await self._decoded(agent, data, Command)

    async def alive(self, agent: Target) -> bool:
        """Whether the agent of exactly this boot answers at its address."""
        try:
            await self.commands(agent)
        except AgentUnreachable:
            return False
        except CommandFailed:
            return False  # somebody answers who does not know the token
        return True

    async def _ask(self, agent: Target, method: str, path: str, *, body: bytes | None = None, **query: str) -> bytes:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar())
        try:
            async with self._session.request(
                method,
                f"{agent.url}{path}",
                params={**query, "agent_token": agent.token},
                data=body,
                headers={"Content-Type": "application/json"} if body is not None else None,
                ssl=_trusted(agent),
                allow_redirects=False,
            ) as answer:
                data = await _read(answer, agent)
                status = answer.status
        except aiohttp.ServerFingerprintMismatch:
            raise AgentUnreachable(
                f"Node {agent.label}: who answers at {agent.url} does not have the certificate of the agent's heartbeats.",
                remedy="Look whether another machine has the address.",
            ) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = "no answer in time" if isinstance(error, TimeoutError) else _reason(error)
            raise AgentUnreachable(f"Node {agent.label}: the agent at {agent.url} cannot be reached: {why}.") from None
        if status >= 300:
            raise _refusal(agent, status, data)
        return data

    async def _decoded(self, agent: Target, data: bytes, kind: type[T]) -> T:
        decode = msgspec.json.Decoder(kind).decode
        try:
            return await asyncio.to_thread(decode, data) if len(data) > _THREADED else decode(data)
        except msgspec.MsgspecError as error:
            raise CommandFailed(f"Node {agent.label}: the agent's answer cannot be read: {error}.") from None

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _trusted(agent: Target) -> aiohttp.Fingerprint | bool:
    if not agent.certificate or not agent.url.startswith("https:"):
        return True
    try:
        return aiohttp.Fingerprint(hashlib.sha256(ssl.PEM_cert_to_DER_cert(agent.certificate.strip())).digest())
    except ValueError:
        raise Invalid(f"Node {agent.label}: the certificate of the agent's heartbeat is not PEM.", field="agent_verify_ca") from None


async def _read(answer: aiohttp.ClientResponse, agent: Target) -> bytes:
    data = bytearray()
    async for piece in answer.content.iter_any():
        data += piece
        if len(data) > LARGEST:
            raise CommandFailed(f"Node {agent.label}: the agent's answer is larger than {LARGEST >> 20} MiB.")
    return bytes(data)


def _reason(error: Exception) -> str:
    inner = getattr(error, "os_error", None)
    return str((inner.strerror if inner is not None else "") or error or type(error).__name__).strip(".")


def _refusal(agent: Target, status: int, data: bytes) -> DeployError:
    try:
        told = msgspec.json.decode(data[:65536])
        text = str(told.get("faultstring") or "") if isinstance(told, dict) else ""
    except msgspec.MsgspecError:
        text = ""
    text = text[:1000].replace(agent.token, "***")
    if status == 409:
        return AgentBusy(f"Node {agent.label}: {text or 'the agent is busy'}.")
    if status == 401:
        return CommandFailed(
            f"Node {agent.label}: the agent does not take the token of this boot.",
            remedy="It was restarted outside of metald's sight; start the operation again.",
        )
    kind = NotKnown if status == 404 else CommandFailed
    return kind(f"Node {agent.label}: the agent answered {status}: {text or 'no reason given'}.")
