"""Inspection in a ramdisk: who may tell what of which node, and what is made of it.

- `door`        takes an inventory, finds the node that it is of, and wakes the node's workflow;
- `findings`    the engine's step: what was told becomes fields, ports and the kept inventory, in one transaction;
- `hooks`       what is done with every inventory, `nics` among it;
- `rules`       what operators want done when conditions hold: `operators`, `actions`, `templates`.

All but `door` and `findings` are pure: they work on a `Subject`, and neither wait nor look at a clock.
"""
