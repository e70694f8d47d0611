"""Virtual machines on hypervisor hosts, driven by SSH: the hardware type `ssh`.

`info.py` reads a node's driver_info; `connection.py` keeps one connection for each host; `platforms.py` says what a platform
can do, and `libvirt.py`, `qemu.py`, `virtualbox.py` and `parallels.py` how; `hosts.py` puts them together and shares what is
asked of a host; `power.py`, `management.py` and `console.py` are the interfaces.
"""

from __future__ import annotations
