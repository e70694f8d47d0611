"""A daemon in front of a simulated fleet: boot servers with files of their own, all other settings as they come."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.bmc import free_udp_port
from tests.support.daemon import Daemon

_FILES = {"ramdisk/kernel": 1 << 18, "ramdisk/initramfs": 3 << 18, "ipxe/undionly.kpxe": 70_000}


class Site:
    """See the module.

    Args:
        folder: everything of it lies below here.
        settings: more of them, by name.
    """

    def __init__(self, folder: Path, settings: dict[str, object] | None = None) -> None:
        for name, size in _FILES.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(size))
        self._tftp = f"127.0.0.1:{free_udp_port()}"
        fixed: dict[str, object] = {
            "boot.ramdisk_dir": folder / "ramdisk",
            "boot.ipxe_dir": folder / "ipxe",
            "boot.tftp_listen": self._tftp,
            "conductor.automated_clean": "false",
            "conductor.power_sync_interval": 60,
            "log.level": "warning",
        }
        self.daemon = Daemon(folder, fixed | (settings or {}))

    def words(self, count: int, *more: str) -> list[str]:
        """Arguments of `metald sim` that lead here."""
        daemon = self.daemon
        fixed = ["--nodes", str(count), "--seed", "7", "--boot-url", daemon.boot_url, "--tftp", self._tftp, "--enroll", daemon.url]
        return [*fixed, *more]
