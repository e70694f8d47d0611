"""Operating system images: what a deployment asks for, where they come from, what they really are, and the cache.

Images and config drives come from outside: nothing about them is believed before it was checked, every size is limited,
and whatever blocks or burns time runs in threads or processes of its own.
"""

from __future__ import annotations
