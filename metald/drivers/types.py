"""The hardware types that metald brings, and which implementations each admits, best first."""

from __future__ import annotations

from metald.drivers.base import HardwareType

_NETWORK_BOOTS = ("ipxe", "pxe", "http", "http-ipxe")
_AGENTS = ("ramdisk", "custom-agent", "anaconda", "bootc", "autodetect")
"""Deploy interfaces beside `direct` whose ramdisk holds the Ironic Python Agent."""

IPMI = HardwareType(
    name="ipmi",
    interfaces={
        "bios": ("no-bios",),
        "boot": _NETWORK_BOOTS,
        "console": ("pyghmi", "ipmitool-socat", "no-console"),
        "deploy": ("ssh", "direct", *_AGENTS),
        "firmware": ("no-firmware",),
        "inspect": ("no-inspect", "agent", "ssh"),
        "management": ("pyghmi", "ipmitool", "noop"),
        "network": ("noop",),
        "power": ("pyghmi", "ipmitool"),
        "raid": ("no-raid", "agent"),
        "rescue": ("no-rescue", "agent"),
        "storage": ("noop",),
        "vendor": ("pyghmi", "ipmitool", "no-vendor"),
    },
)

FAKE = HardwareType(
    name="fake-hardware",
    interfaces={
        "bios": ("fake", "no-bios"),
        "boot": ("fake", *_NETWORK_BOOTS),
        "console": ("fake", "fake-graphical", "no-console"),
        "deploy": ("fake", "direct", *_AGENTS),
        "firmware": ("fake", "no-firmware"),
        "inspect": ("fake", "no-inspect", "agent"),
        "management": ("fake", "noop"),
        "network": ("noop",),
        "power": ("fake",),
        "raid": ("fake", "no-raid", "agent"),
        "rescue": ("fake", "no-rescue", "agent"),
        "storage": ("noop", "fake"),
        "vendor": ("fake", "no-vendor"),
    },
    any_combination=True,
)

SSH = HardwareType(
    name="ssh",
    interfaces={
        "bios": ("no-bios",),
        "boot": _NETWORK_BOOTS,
        "console": ("ssh", "no-console"),
        "deploy": ("ssh", "direct", *_AGENTS),
        "firmware": ("no-firmware",),
        "inspect": ("no-inspect", "agent", "ssh"),
        "management": ("ssh", "noop"),
        "network": ("noop",),
        "power": ("ssh",),
        "raid": ("no-raid", "agent"),
        "rescue": ("no-rescue", "agent"),
        "storage": ("noop",),
        "vendor": ("no-vendor",),
    },
)

BUILT_IN: tuple[HardwareType, ...] = (IPMI, SSH, FAKE)
"""Every hardware type of this package."""
