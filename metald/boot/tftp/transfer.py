"""One TFTP transfer to a client, without input or output: datagrams and the time go in, bursts of datagrams come out.

It keeps to RFC 1350, 2347 (options), 2348 (blksize), 2349 (tsize, timeout) and 7440 (windowsize). The caller sends what
`begin`, `receive` and `expire` return, calls `expire` when `deadline` has passed, and lets go once `ended` is set.

Duplicates. A client acknowledges a block twice when a datagram was duplicated or late; answering each of them doubles
every block from there on (the sorcerer's apprentice, RFC 1123 section 4.2.3.1). In lockstep they are all passed over.
With a window, a repeated ACK is also how a client says that the first block of the window is missing (RFC 7440
section 4), and then waiting for the timer would be slow. Such an ACK is taken for a loss only if it comes late enough
to be an answer to the window, and never in two windows running, so that no echo of it can live on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from metald.boot.tftp import packet
from metald.boot.tftp.blocks import Blocks

MIN_BLKSIZE, DEFAULT_BLKSIZE, MAX_BLKSIZE = 8, 512, 65464
MAX_TIMEOUT = 30
"""Longest retransmission time in seconds that a client may ask for; RFC 2349 knows 255."""
MAX_BURST = 128 << 10
"""Most bytes in flight, whatever windowsize was asked for: more than this overruns sockets and switches."""

_ACK, _ERROR = int(packet.Opcode.ACK), int(packet.Opcode.ERROR)
_FIRST_TIMEOUT = 1.0
_LEAST_TIMEOUT, _MOST_TIMEOUT = 0.5, 8.0
_TRIES_BEFORE_ANSWER = 4
TRIES = 6
"""How often a window is sent again before the client counts as gone."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """What client and server settled on."""

    blksize: int = DEFAULT_BLKSIZE
    windowsize: int = 1
    timeout: float | None = None
    """Seconds until a retransmission, when the client asked for it."""
    answer: Mapping[str, str] = field(default_factory=dict)
    """The options of the OACK; none is sent when empty."""


def negotiate(options: Mapping[str, str], size: int, *, max_blksize: int, max_window: int) -> Agreed:
    """Settle the options that a client asked for; those that are unknown or make no sense are passed over (RFC 2347).

    Args:
        size: bytes of the content, for `tsize`.
        max_blksize: what the path's MTU bears.
        max_window: what the server sends at once.
    """
    answer: dict[str, str] = {}
    blksize = packet.number(options.get("blksize"))
    if blksize is not None and blksize >= MIN_BLKSIZE:
        blksize = max(MIN_BLKSIZE, min(blksize, max_blksize, MAX_BLKSIZE))
        answer["blksize"] = str(blksize)
    else:
        blksize = DEFAULT_BLKSIZE
    window = packet.number(options.get("windowsize"))
    if window is not None and 1 <= window <= 65535:
        window = max(1, min(window, max_window, MAX_BURST // (blksize + 4)))
        answer["windowsize"] = str(window)
    else:
        window = 1
    timeout = packet.number(options.get("timeout"))
    if timeout is not None and 1 <= timeout <= MAX_TIMEOUT:
        answer["timeout"] = str(timeout)
    else:
        timeout = None
    if packet.number(options.get("tsize")) is not None:
        answer["tsize"] = str(size)
    return Agreed(blksize, window, timeout, answer)


Burst = bytes | memoryview
"""Datagrams to send now, one behind the other; each is `Transfer.segment` bytes long but for the last."""


class Transfer:
    """Sends a content to one client."""

    __slots__ = (
        "_acked",
        "_after_resend",
        "_agreed",
        "_answered",
        "_blocks",
        "_fresh",
        "_oack",
        "_resent",
        "_rtt",
        "_sent",
        "_sent_at",
        "_tries",
        "ended",
        "error",
        "probed",
        "retransmits",
        "segment",
    )

    def __init__(self, blocks: Blocks, agreed: Agreed) -> None:
        assert blocks.blksize == agreed.blksize
        self.ended = False
        self.error = ""
        """Why it ended before the client had everything; empty while it runs and when all went well."""
        self.probed = False
        """Whether the client wanted to know the size and nothing else (RFC 2349)."""
        self.retransmits = 0
        """Datagrams that were sent again."""
        self.segment = blocks.segment
        """Length of the datagrams of the last burst."""
        self._blocks = blocks
        self._agreed = agreed
        self._oack = packet.encode(packet.OptionAck(agreed.answer)) if agreed.answer else None
        self._answered = False
        self._acked = 0
        self._sent = 0
        self._sent_at = 0.0
        self._tries = 0
        self._rtt: float | None = None
        self._fresh = True  # nothing in flight was sent before: its ACK tells the round-trip time (Karn)
        self._resent = False
        self._after_resend = False

    @property
    def bytes_acknowledged(self) -> int:
        """Bytes of the content that the client has."""
        return min(self._acked * self._blocks.blksize, self._blocks.size)

    @property
    def begun(self) -> bool:
        """Whether the client has answered at all."""
        return self._answered

    def silent_for(self, now: float) -> float:
        """Seconds since the last burst; each acknowledgement brings one."""
        return now - self._sent_at

    @property
    def deadline(self) -> float:
        """When `expire` is due. It moves with every acknowledgement and is worked out only when somebody asks."""
        asked = self._agreed.timeout
        if asked is not None:
            return self._sent_at + asked
        calm = _FIRST_TIMEOUT if self._rtt is None else max(_LEAST_TIMEOUT, 4 * self._rtt)
        return self._sent_at + min(calm * (1 << self._tries), _MOST_TIMEOUT)

    def begin(self, now: float) -> Burst:
        """The first burst: the OACK, or block 1 when the client asked for no options."""
        if self._oack is not None:
            return self._alone(self._oack, now)
        return self._window(now)

    def receive(self, datagram: bytes, now: float) -> Burst | None:
        """Take a datagram of the client. What is neither ACK nor ERROR is passed over."""
        if self.ended or len(datagram) < 4 or datagram[0]:
            return None
        opcode = datagram[1]
        if opcode == _ACK and self._fresh and self._oack is None:
            # Nearly all there ever is: the whole window has arrived, and nothing was sent twice. One call for each window
            # instead of five is a fifth of the server's CPU; `_acknowledged` would do the same.
            sent, blocks = self._sent, self._blocks
            if (datagram[2] << 8 | datagram[3]) == sent & 0xFFFF and sent != self._acked and sent != blocks.count:
                took = now - self._sent_at
                self._rtt = took if self._rtt is None else 0.75 * self._rtt + 0.25 * took
                self._answered = True
                self._acked = sent
                self._tries = 0
                self._after_resend = False
                last = sent + self._agreed.windowsize
                self._sent = last = min(blocks.count, last)
                self._sent_at = now
                return blocks.span(sent + 1, last)
        if opcode == _ACK:
            return self._acknowledged(datagram[2] << 8 | datagram[3], now)
        if opcode == _ERROR:
            error = packet.parse(datagram)
            assert isinstance(error, packet.Error)
            if self._oack is not None and "tsize" in self._agreed.answer:
                # UEFI firmware asks for the size first, hangs up, and comes again for the file.
                self.probed = True
                self._end("")
                return None
            self._end(f"the client ended it: {error.message or 'no reason given'} (error {error.code})")
        return None

    def expire(self, now: float) -> Burst | None:
        """Send again what nobody acknowledged, or give up. Does nothing before `deadline`."""
        if self.ended or now < self.deadline:
            return None
        self._tries += 1
        if self._tries > (TRIES if self._answered else _TRIES_BEFORE_ANSWER):
            where = f"block {self._acked + 1} of {self._blocks.count}" if self._oack is None else "the options"
            self._end(f"the client fell silent at {where}")
            return self._alone(packet.encode(packet.Error(packet.Code.UNDEFINED, "No answer in time.")), now)
        if self._oack is not None:
            self.retransmits += 1
            self._fresh = False
            return self._alone(self._oack, now)
        return self._again(now)

    def refused(self) -> None:
        """The client's port is closed (ICMP). After the last block that is how some clients end."""
        done = self._oack is None and self._sent == self._blocks.count
        if done:
            self._acked = self._blocks.count
        self._end("" if done else "the client closed its port")

    def left(self, now: float) -> None:
        """The last of a burst, which had to wait, has left only now: its acknowledgement is waited for from here on."""
        self._sent_at = now

    def _acknowledged(self, number: int, now: float) -> Burst | None:
        if self._oack is not None:
            if number != 0:
                return None
            self._oack = None
            self.segment = self._blocks.segment
            self._progress(now, 0)
            return self._window(now)
        block = self._acked + ((number - self._acked) & 0xFFFF)
        if block > self._sent:
            return None
        if block == self._acked:
            return self._repeated(now)
        missing = self._sent - block
        self._progress(now, block)
        if block == self._blocks.count:
            self._end("")
            return None
        if missing:
            self.retransmits += missing
            self._fresh = False
        return self._window(now)

    def _progress(self, now: float, block: int) -> None:
        if self._fresh:
            took = now - self._sent_at
            self._rtt = took if self._rtt is None else 0.75 * self._rtt + 0.25 * took
        else:
            self._fresh = True
        self._answered = True
        self._acked = block
        self._tries = 0
        self._after_resend = self._resent
        self._resent = False

    def _repeated(self, now: float) -> Burst | None:
        if self._agreed.windowsize == 1 or self._resent or self._after_resend:
            return None
        if self._rtt is None or now - self._sent_at < self._rtt / 2:
            return None
        return self._again(now)

    def _again(self, now: float) -> Burst:
        self.retransmits += self._sent - self._acked
        self._resent = True
        self._fresh = False
        return self._window(now)

    def _window(self, now: float) -> Burst:
        acked = self._acked
        last = acked + self._agreed.windowsize
        if last > self._blocks.count:
            last = self._blocks.count
        self._sent = last
        self._sent_at = now
        return self._blocks.span(acked + 1, last)

    def _alone(self, datagram: bytes, now: float) -> Burst:
        self.segment = len(datagram)
        self._sent_at = now
        return datagram

    def _end(self, error: str) -> None:
        self.ended = True
        self.error = error
