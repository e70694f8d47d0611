"""pyghmi's own BMC as a program: `python pyghmi_bmc.py PORT DIRECTORY`. The base of virtualbmc and of most test beds.

What is done to its machine is in files of the directory: `power` (0 or 1), `resets` (one character each), `typed`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pyghmi.ipmi.bmc import Bmc


class FileBmc(Bmc):  # type: ignore[misc]
    def __init__(self, users: dict[str, str], port: int, directory: Path) -> None:
        super().__init__(users, port=port, address="127.0.0.1")
        self.directory = directory
        self.device: Any = "default"

    def _note(self, name: str, text: str) -> None:
        with (self.directory / name).open("a") as file:
            file.write(text)

    def get_boot_device(self) -> Any:
        return self.device

    def set_boot_device(self, bootdevice: Any) -> None:
        self.device = bootdevice

    def get_power_state(self) -> str:
        return "on" if (self.directory / "power").read_text().strip() == "1" else "off"

    def power_off(self) -> None:
        (self.directory / "power").write_text("0")

    def power_on(self) -> None:
        (self.directory / "power").write_text("1")

    def power_shutdown(self) -> None:
        self.power_off()

    def power_reset(self) -> int | None:
        if not self.is_active():
            return 0xD5
        self._note("resets", "1\n")
        return None

    def is_active(self) -> bool:
        return self.get_power_state() == "on"

    def iohandler(self, data: Any) -> None:
        if self.sol and not isinstance(data, dict):
            self._note("typed", bytes(data).decode("latin-1"))
            self.sol.send_data(bytes(data).upper())


if __name__ == "__main__":
    users = dict(pair.split("=", 1) for pair in sys.argv[3:])
    FileBmc(users, int(sys.argv[1]), Path(sys.argv[2])).listen()
    while True:
        Bmc.listen()
