"""A rack of virtual machines behind real BMC simulators, for the demo and the tests."""

from __future__ import annotations

from lab.chassis import Action, Device
from lab.machine import Happening
from lab.process import LabError
from lab.rack import Lab, LabMachine

__all__ = ["Action", "Device", "Happening", "Lab", "LabError", "LabMachine"]
