"""A hardware manager for the real agent as a local process: its machine has one card and a plain file as its disk.

Everything else of the agent is as it comes from PyPI. The machine is told by environment variables: `TEST_MAC`, `TEST_DISK`
and `TEST_DIR`, a directory of its own. Files in that directory say how its steps behave: `slow` makes the slow step take
until the file is gone, `version` is the manager's version.
"""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import Any

from ironic_python_agent import hardware, tls_utils
from ironic_python_agent.extensions import rescue, standby

DIRECTORY = Path(os.environ["TEST_DIR"])
DISK = os.environ["TEST_DISK"]


def _inside(path: str, mode: str = "r") -> Any:
    """What the rescue extension writes below /etc stays in the machine's directory."""
    return (DIRECTORY / Path(path).name).open(mode)


rescue.open = _inside
standby.StandbyExtension._write_no_pivot_root = lambda _self: None


def _done(what: str) -> None:
    with (DIRECTORY / "done").open("a") as file:
        file.write(f"{what}\n")


class FileHardwareManager(hardware.HardwareManager):
    HARDWARE_MANAGER_NAME = "metald_test"

    @property
    def HARDWARE_MANAGER_VERSION(self) -> str:
        chosen = DIRECTORY / "version"
        return chosen.read_text().strip() if chosen.exists() else "1"

    def evaluate_hardware_support(self) -> int:
        return hardware.HardwareSupport.SERVICE_PROVIDER

    def list_network_interfaces(self) -> list[Any]:
        return [hardware.NetworkInterface("eth0", os.environ["TEST_MAC"], ipv4_address="192.0.2.10")]

    def list_block_devices(self, include_partitions: bool = False, all_serial_and_wwn: bool = False) -> list[Any]:
        return [hardware.BlockDevice(DISK, "FILE", Path(DISK).stat().st_size, False, serial="metald-test")]

    def get_os_install_device(self, permit_refresh: bool = False) -> str:
        return DISK

    def list_hardware_info(self) -> dict[str, Any]:
        return {
            "interfaces": self.list_network_interfaces(),
            "disks": self.list_block_devices(),
            "cpu": self.get_cpus(),
            "memory": hardware.Memory(1 << 30, physical_mb=1024),
            "boot": hardware.BootInfo("bios", f"01-{os.environ['TEST_MAC'].replace(':', '-')}"),
        }

    def get_cpus(self) -> Any:
        return hardware.CPU("test", 1000, 1, "x86_64")

    def initialize_hardware(self) -> None:
        pass

    def wait_for_disks(self) -> None:
        pass

    def generate_tls_certificate(self, ip_address: str) -> Any:
        paths = [str(DIRECTORY / name) for name in ("agent.crt", "agent.key")]
        text = tls_utils._generate_tls_certificate(*paths, "metald-test", ip_address)
        return tls_utils.TlsCertificate(text, *paths)

    def collect_system_logs(self, io_dict: dict[str, Any], file_list: list[str]) -> None:
        io_dict["metald-test"] = io.BytesIO(b"what the test machine saw\n")

    def full_sync(self) -> None:
        _done("sync")

    def get_clean_steps(self, node: Any, ports: Any) -> list[dict[str, Any]]:
        return [
            {"step": "erase_devices_metadata", "priority": 99, "interface": "deploy", "reboot_requested": False, "abortable": True},
            {"step": "slow", "priority": 50, "interface": "deploy", "reboot_requested": False, "abortable": True},
            {"step": "erase_devices", "priority": 10, "interface": "deploy", "reboot_requested": False, "abortable": True},
            {"step": "update_firmware", "priority": 0, "interface": "deploy", "reboot_requested": True, "abortable": False},
        ]

    def get_deploy_steps(self, node: Any, ports: Any) -> list[dict[str, Any]]:
        return [{"step": "tune", "priority": 70, "interface": "deploy", "reboot_requested": False}]

    def erase_devices_metadata(self, node: Any, ports: Any) -> None:
        with open(DISK, "r+b") as file:
            file.write(bytes(1 << 20))
        _done("erase_devices_metadata")

    def erase_devices(self, node: Any, ports: Any) -> None:
        _done("erase_devices")

    def update_firmware(self, node: Any, ports: Any, level: str = "low") -> str:
        _done(f"update_firmware {level}")
        return f"updated to {level}"

    def tune(self, node: Any, ports: Any) -> None:
        _done("tune")

    def slow(self, node: Any, ports: Any) -> None:
        _done("slow began")
        while (DIRECTORY / "slow").exists():
            time.sleep(0.05)
        _done("slow")
