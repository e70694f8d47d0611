"""Power and management of machines by their BMCs over IPMI.

`hub.IpmiHub` carries all BMCs of the daemon on a few UDP sockets; the interfaces `pyghmi` (power.py, management.py)
work on it. The interfaces `ipmitool` (ipmitool.py) run a program per command, for BMCs that need its special ways.
"""
