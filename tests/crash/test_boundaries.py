"""SIGKILL at every journal boundary, just before it and just after it: nothing is lost and nothing is done twice.

A deployment is run once to see which boundaries there are. Then for each of them it is run again with a daemon that kills
itself there, and a second daemon goes on over the same state. In the end the node must be `active`, and BMC and disk must
have seen exactly what they see without a crash.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.crash.course import Course, effects
from tests.crash.forge import Forge

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("crash")]

LANES = 3


async def _storm(courses: list[Course], when: str) -> None:
    """Run every boundary of a course, spread over lanes that run side by side."""
    async with asyncio.TaskGroup() as group:
        for course in courses:
            group.create_task(course.prepare())
    report, boundaries = await courses[0].run()
    expected = effects(report)
    print(*boundaries, expected, sep="\n")
    waits = next(number for number, name in enumerate(boundaries, 1) if "waiting at deploy.wait_ramdisk" in name)
    left = list(range(len(boundaries), 0, -1))
    wrong: list[str] = []

    async def lane(course: Course) -> None:
        while left:
            at = left.pop()
            try:
                seen, _ = await course.run(at, when, slow=at <= waits)
            except (AssertionError, TimeoutError) as error:
                wrong.append(f"{when} boundary {boundaries[at - 1]}: {error}")
                continue
            if effects(seen) != expected:
                wrong.append(f"{when} boundary {boundaries[at - 1]}: {_difference(effects(seen), expected)}")

    async with asyncio.TaskGroup() as group:
        for course in courses:
            group.create_task(lane(course))
    assert not wrong, "\n".join(wrong)


def _difference(seen: dict[str, Any], expected: dict[str, Any]) -> str:
    return ", ".join(f"{name} is {seen[name]!r} instead of {expected[name]!r}" for name in expected if seen[name] != expected[name])


def _courses(folder: Path, program: Path, forge: Forge, **more: Any) -> list[Course]:
    return [Course(folder / f"lane{number}", program, forge, **more) for number in range(LANES)]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_deployment_survives_a_kill_at_every_boundary(tmp_path: Path, ramdisk_program: Path, smith: Forge, when: str) -> None:
    await _storm(_courses(tmp_path, ramdisk_program, smith), when)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_teardown_and_cleaning_survive_a_kill_at_every_boundary(
    tmp_path: Path, ramdisk_program: Path, smith: Forge, when: str
) -> None:
    settings: dict[str, object] = {"conductor.automated_clean": "true"}
    await _storm(_courses(tmp_path, ramdisk_program, smith, kind="teardown", verb="deleted", goal="available", settings=settings), when)
