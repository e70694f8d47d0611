"""`make kill`: one real machine is deployed again and again, and metald is killed at a random moment of each deployment.

Every time the daemon is started again, the deployment must end `active`, and the machine must have been powered on exactly
twice: for the ramdisk and for its new system. A needless power cycle, a failure or a stuck node is a failure of the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time

from lab.daemon import Daemon, free_port
from lab.demo import settings_for
from lab.prepare import Prepared, prepare
from lab.process import LabError
from lab.rack import Lab, LabMachine
from lab.screen import Screen

_DEADLINE = 300.0
_DEPLOYMENT = 12.0
"""Seconds within which a deployment's own work usually ends; kills come within them."""


async def _until(daemon: Daemon, name: str, wanted: str) -> None:
    """Wait for a provision state.

    Raises:
        LabError: the node failed, or is not there in time.
    """
    end = time.monotonic() + _DEADLINE
    while time.monotonic() < end:
        node = await daemon.get(f"/v1/nodes/{name}")
        if node["provision_state"] == wanted and node["reservation"] is None:
            return
        if node["provision_state"].endswith("failed") or node["provision_state"] == "error":
            raise LabError(f"{name}: {node['provision_state']}: {node['last_error']}")
        await asyncio.sleep(0.2)
    raise LabError(f"{name} is {node['provision_state']}, not {wanted}, after {_DEADLINE:.0f} s.")


async def _provision(daemon: Daemon, name: str, target: str, wanted: str) -> None:
    await daemon.call("PUT", f"/v1/nodes/{name}/states/provision", {"target": target})
    await _until(daemon, name, wanted)


async def _enrol(daemon: Daemon, one: LabMachine) -> None:
    node = await daemon.call(
        "POST",
        "/v1/nodes",
        {
            "name": one.name,
            "driver": "ipmi",
            "driver_info": one.driver_info,
            "automated_clean": False,
            "properties": {"root_device": {"serial": one.disk_serials[0]}},
        },
    )
    await daemon.call("POST", "/v1/ports", {"node_uuid": node["uuid"], "address": one.mac})
    await _provision(daemon, one.name, "manage", "manageable")
    await _provision(daemon, one.name, "provide", "available")


async def _round(daemon: Daemon, one: LabMachine, made: Prepared, moment: float, pause: float, out: Screen) -> None:
    info = {"image_source": made.image.as_uri(), "image_os_hash_algo": "sha512", "image_os_hash_value": made.sha512}
    await daemon.call("PATCH", f"/v1/nodes/{one.name}", [{"op": "add", "path": "/instance_info", "value": info}])
    before = one.power_ons
    await daemon.call("PUT", f"/v1/nodes/{one.name}/states/provision", {"target": "active"})
    await asyncio.sleep(moment)
    node = await daemon.get(f"/v1/nodes/{one.name}")
    where = f"{node['provision_state']} {json.dumps(node['deploy_step'].get('step', ''))}"
    await daemon.kill()
    await asyncio.sleep(pause)
    await daemon.start()
    await _until(daemon, one.name, "active")
    powered = one.power_ons - before
    out.say(f"killed {moment:5.2f} s after the request ({where}), away for {pause:.1f} s: active, powered on {powered} times")
    if powered != 2 or one.resets:
        raise LabError(f"The machine was powered on {powered} times and reset {one.resets} times; 2 and 0 are needed.")
    await _provision(daemon, one.name, "deleted", "available")


async def _run(rounds: int, seed: int, out: Screen) -> None:
    chance = random.Random(seed)
    made = await prepare(out.say)
    async with Lab(1) as lab:
        one = lab.machines[0]
        async with Daemon(lab.directory, settings_for(lab, made, free_port())) as daemon:
            try:
                await _enrol(daemon, one)
                for number in range(rounds):
                    # Moments are spread evenly over the deployment, each somewhere within its share.
                    moment = (number + chance.random()) * _DEPLOYMENT / rounds
                    await _round(daemon, one, made, moment, chance.uniform(0.2, 3), out)
            except LabError:
                out.plain("\n".join(daemon.log.read_text(errors="replace").splitlines()[-40:]))
                raise


def main() -> int:
    """Run the command line; 0 when every deployment ended as it must."""
    parser = argparse.ArgumentParser(prog="make kill", description="Kill metald at random moments of real deployments.")
    parser.add_argument("--rounds", type=int, default=10, help="deployments (default 10)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random moments")
    args = parser.parse_args()
    out = Screen()
    out.title(f"{args.rounds} deployments, each killed once (seed {args.seed})")
    try:
        asyncio.run(_run(args.rounds, args.seed, out))
    except LabError as error:
        sys.stderr.write(f"kill: {error}\n")
        return 1
    out.title(f"{args.rounds} of {args.rounds} deployments ended active")
    return 0


if __name__ == "__main__":
    sys.exit(main())
