"""The ramdisk that machines boot for work on their disks: its builder, and what runs inside.

`metald ramdisk build` makes `kernel`, `initramfs` and `manifest.json` from Debian packages that are fetched and unpacked,
never installed. Rules:

- The same packages give the same bytes: entries are sorted, times are fixed, nothing of the build host gets in.
- What runs inside decides nothing: `source/` moves bytes and reports facts, `files/init` makes the machine reachable.
- The ramdisk holds no secret: keys and tokens of a boot come from metald at boot time.
"""

from __future__ import annotations
