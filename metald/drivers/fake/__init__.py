"""fake-hardware: machines that exist only in this process, as slow and as unreliable as the settings say.

The pretended hardware keeps its condition in memory beside the node's stored one: what metald last observed is what a
restarted fake machine has.
"""

from __future__ import annotations

from metald.drivers.fake.console import FakeGraphicalConsole
from metald.drivers.fake.hardware import FakeHardware
from metald.drivers.fake.interfaces import interfaces

__all__ = ["FakeGraphicalConsole", "FakeHardware", "interfaces"]
