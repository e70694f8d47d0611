"""A rack of virtual machines behind real BMC simulators, for the demo and the tests."""

from __future__ import annotations
