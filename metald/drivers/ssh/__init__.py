"""Deployment over SSH: connections to ramdisks, what is asked of them, and what is decided about disks and boot entries."""

from __future__ import annotations
