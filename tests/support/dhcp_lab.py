"""A private wire with a real dnsmasq on one end and a DHCP client on the other, driven by lines of JSON.

Run as the only process of a new network namespace: `unshare -n python dhcp_lab.py DIR [dnsmasq options]`. Each line on
standard input is one question: `{"mac": ..., "options": {number: hex}, "request": bool}`; each line on standard output its
answer, `null` when dnsmasq stays silent, else `{"address", "siaddr", "file", "options": {number: hex}}`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys

MAGIC = b"\x63\x82\x53\x63"


def packet(mac: str, kind: int, options: dict[int, bytes], transaction: int) -> bytes:
    """A BOOTREQUEST that asks to be answered by broadcast (RFC 2131 section 2, RFC 2132)."""
    head = struct.pack("!BBBBIHH16x", 1, 1, 6, 0, transaction, 0, 0x8000)
    body = head + bytes.fromhex(mac.replace(":", "")).ljust(16, b"\0") + bytes(64 + 128) + MAGIC + bytes([53, 1, kind])
    for number, value in options.items():
        body += bytes([number, len(value)]) + value
    return (body + bytes([55, 7, 1, 3, 60, 66, 67, 150, 175, 255])).ljust(300, b"\0")


def parse(data: bytes) -> dict:
    """A BOOTREPLY: its fields and options."""
    options: dict[str, str] = {}
    at = 240
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        size = data[at + 1]
        options[str(data[at])] = data[at + 2 : at + 2 + size].hex()
        at += 2 + size
    return {
        "address": socket.inet_ntoa(data[16:20]),
        "siaddr": socket.inet_ntoa(data[20:24]),
        "file": data[108:236].split(b"\0")[0].decode(),
        "options": options,
    }


def exchange(sock: socket.socket, mac: str, kind: int, options: dict[int, bytes]) -> dict | None:
    transaction = random.getrandbits(32)
    sock.settimeout(0.7)
    for _ in range(2):
        sock.sendto(packet(mac, kind, options, transaction), ("255.255.255.255", 67))
        try:
            while True:
                data = sock.recv(2048)
                if data[:1] == b"\x02" and struct.unpack_from("!I", data, 4)[0] == transaction:
                    return parse(data)
        except TimeoutError:
            continue
    return None


def run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def main() -> None:
    folder, extra = sys.argv[1], sys.argv[2:]
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "server", "type", "veth", "peer", "name", "client")
    run("ip", "addr", "add", "10.9.0.1/24", "dev", "server")
    for name in ("server", "client"):
        run("ip", "link", "set", name, "up")
    for name in ("all", "client"):
        for key, value in (("accept_local", "1"), ("rp_filter", "0")):
            with open(f"/proc/sys/net/ipv4/conf/{name}/{key}", "w") as file:
                file.write(value)
    server = subprocess.Popen(
        [
            "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=server", "--bind-interfaces", "--no-ping",
            "--dhcp-range=10.9.0.50,10.9.0.99,255.255.255.0,1h", "--dhcp-broadcast", f"--dhcp-leasefile={folder}/leases",
            f"--dhcp-hostsdir={folder}/hosts", f"--dhcp-optsdir={folder}/opts", "--dhcp-match=set:ipxe,175",
            "--dhcp-match=set:efi,option:client-arch,7", "--dhcp-match=set:efi,option:client-arch,9",
            "--dhcp-match=set:efi-http,option:client-arch,16", "--user=root", "--log-dhcp", *extra,
        ],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = open(f"{folder}/log", "w", buffering=1)  # noqa: SIM115
    for line in server.stderr:
        log.write(line)
        if "sockets bound" in line:
            break
    os.dup2(log.fileno(), 2)
    if os.fork() == 0:
        for line in server.stderr:
            log.write(line)
        os._exit(0)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"client")
    sock.bind(("0.0.0.0", 68))
    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        options = {int(number): bytes.fromhex(value) for number, value in question.get("options", {}).items()}
        answer = exchange(sock, question["mac"], 1, options)
        if answer and question.get("request"):
            options |= {50: socket.inet_aton(answer["address"]), 54: bytes.fromhex(answer["options"]["54"])}
            answer = exchange(sock, question["mac"], 3, options)
        print(json.dumps(answer), flush=True)
    server.send_signal(signal.SIGTERM)
    server.wait()


main()
