"""`metald sim`: a fleet of simulated machines that speak the wire, to try metald with and to size a fleet by."""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import signal
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metald.config import parse_listen
from metald.metrics import Histogram, LoopLag
from metald.sim.enroll import Enroller, EnrollError
from metald.sim.fate import KINDS, Fault, FaultError
from metald.sim.rack import Options, Rack, replayed
from metald.sim.story import Injection, StoryError

_LATE = 0.5
_SLOW = "its machines were late by half a second and more, and what failed may have failed for that."

_EXAMPLES = f"""examples:
  metald sim --nodes 10 --enroll http://127.0.0.1:6385
      ten machines, registered with the daemon and made available
  metald sim --nodes 1000 --seed 7 --time-scale 0.1 --enroll http://127.0.0.1:6385 --deploy --once
      a thousand deployments on hardware that is ten times as fast; prints figures and ends
  metald sim --nodes 10000 --seed 7 --fault loss=0.05 --fault dead=10% --fault hung-post=1%
      ten thousand BMCs, some of which make trouble
  metald sim --nodes 100 --log story.jsonl ... ; metald sim --replay story.jsonl ...
      the same fleet with the same faults once more
  ipmitool -I lanplus -H 127.20.0.1 -p PORT -U admin -P secret sol activate
      a machine's console; PORT is what `metald sim` prints
  curl -X POST CONTROL/faults -d '{{"nodes": "10%", "fault": {{"dead": true}}, "seconds": 30}}'

faults (--fault NAME=VALUE[@SHARE of the machines]): {", ".join(KINDS)}
  loss=0.05           share of IPMI datagrams lost, each way       hung-post=3%    chance at each power-on
  delay=0.3           seconds until a BMC answers                  agent-dies=3%   chance at each ramdisk's boot
  power-delay=2       seconds that a power change takes            bmc-restart=5%  chance at each power-on
  dead=10%            BMCs that never answer                       slow-disk=20%:10M  machines, and bytes a second
  lying=2%            BMCs that always say the power is off        no-network=1%   machines without DHCP
  stuck=1%            BMCs that accept power commands and do nothing

a scenario is a TOML file of faults over time:
  [[at]]
  time = 30            # seconds of the fleet's time after the start
  nodes = "10%"        # all, a share, or names with commas
  fault = {{ dead = true }}
  seconds = 20         # for how long; leave it out for good
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `metald sim` takes."""
    parser.description = __doc__
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--nodes", type=int, default=10, metavar="N", help="how many machines (default 10)")
    add("--seed", type=int, default=0, metavar="S", help="what chance is made of (default 0)")
    add("--enroll", metavar="URL", help="register them with the daemon whose API is there")
    add("--deploy", action="store_true", help="after --enroll: deploy them all and print figures")
    add("--once", action="store_true", help="end when that is done, instead of at Ctrl-C; 1 when a deployment failed")
    add("--image", metavar="URL", help="image to deploy (default: a small one of the simulation's own)")
    add("--image-checksum", default="", metavar="SHA256", help="its checksum")
    add("--deploy-interface", default="", metavar="NAME", help="deploy interface of the nodes (default: the daemon's)")
    add("--boot-url", default="http://127.0.0.1:6386", metavar="URL", help="the daemon's boot HTTP server, which DHCP would tell")
    add("--tftp", metavar="HOST:PORT", help="its TFTP server; without it machines have iPXE in their cards")
    add("--time-scale", type=float, default=1.0, metavar="X", help="seconds that a second of the machines' own time takes (default 1)")
    add("--post", default="0-60", metavar="A-B", help="seconds of the firmware's self-test (default 0-60)")
    add("--kernel-seconds", type=float, default=10.0, metavar="S", help="from a kernel's start to its login prompt (default 10)")
    add("--fault", action="append", default=[], metavar="NAME=VALUE", help="see below; may be given often")
    add("--scenario", type=Path, metavar="FILE", help="faults over time, see below")
    add("--log", type=Path, metavar="FILE", help="write what happens there, a JSON object a line")
    add("--replay", type=Path, metavar="FILE", help="the fleet and the faults of such a log again")
    add("--ipmi-port", type=int, default=0, metavar="PORT", help="UDP port of all BMCs (default: a free one)")
    add("--user", default="admin", help="the BMCs' account (default admin)")
    add("--password", default="secret", help="its password (default secret)")
    add("--control", default="127.0.0.1:0", metavar="HOST:PORT", help="where to control the simulation (default: a free port)")


def options(args: argparse.Namespace) -> Options:
    """The fleet that the arguments ask for.

    Raises:
        FaultError, StoryError, ValueError, OSError: an argument or a file is wrong; the text says which.
    """
    host, port = parse_listen(args.control)
    common: dict[str, Any] = {
        "boot_url": args.boot_url,
        "tftp": parse_listen(args.tftp) if args.tftp else None,
        "user": args.user,
        "password": args.password,
        "ipmi_port": args.ipmi_port,
        "control": (host, port),
        "log": args.log,
    }
    if args.replay:
        return Options(**common, **replayed(args.replay))
    low, _, high = args.post.partition("-")
    post = (float(low), float(high or low))
    if not 0 <= post[0] <= post[1]:
        raise ValueError(f"--post {args.post}: write the least and the most seconds, 0-60")
    if args.time_scale < 0:
        raise ValueError("--time-scale must not be negative")
    return Options(
        **common,
        nodes=args.nodes,
        seed=args.seed,
        time_scale=max(args.time_scale, 1e-6),
        post=post,
        kernel_seconds=args.kernel_seconds,
        faults=tuple(Fault.parse(text) for text in args.fault),
        injections=scenario(args.scenario) if args.scenario else (),
    )


def scenario(path: Path) -> Sequence[Injection]:
    """Read a scenario.

    Raises:
        FaultError: the file is none; says where.
        OSError: it cannot be read.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("at", [])
        return [
            Injection(float(one["time"]), str(one.get("nodes", "all")), dict(one["fault"]), float(one.get("seconds", 0))) for one in entries
        ]
    except (tomllib.TOMLDecodeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise FaultError(f"{path} is no scenario: {error}. Each [[at]] needs time and fault; see --help.") from None


async def run(args: argparse.Namespace) -> int:
    """Run the fleet until Ctrl-C, or until its work is done.

    Returns:
        0 when all went well, 1 when a deployment failed or the daemon refused, 2 when an argument is wrong.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        wanted = options(args)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        lag = LoopLag()
        async with Rack(wanted) as rack, asyncio.TaskGroup() as group:
            watching = group.create_task(lag.run())
            gc.freeze()  # ten thousand machines live as long as this does: looking at them again and again stops the loop
            try:
                return await _lives(rack, args, stop)
            finally:
                watching.cancel()
                _say_late(lag.late)
    except (FaultError, StoryError, ValueError) as error:
        sys.stderr.write(f"metald sim: {error}\n")
        return 2
    except (EnrollError, OSError) as error:
        sys.stderr.write(f"metald sim: {error}\n")
        return 1


async def _lives(rack: Rack, args: argparse.Namespace, stop: asyncio.Event) -> int:
    first, last = (rack.blades[name] for name in (min(rack.blades), max(rack.blades)))
    _say(f"{len(rack.blades)} machines: BMCs {first.bmc.address} to {last.bmc.address}, UDP port {rack.ipmi_port}")
    _say(f"control: {rack.control.url}")
    status = 0
    if args.enroll:
        work = asyncio.ensure_future(_work(rack, args))
        waiting = asyncio.ensure_future(stop.wait())
        await asyncio.wait([work, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait([work])
        else:
            status = work.result()
    if not args.once:
        await stop.wait()
    _say("ledger: " + ", ".join(f"{name} {count}" for name, count in sorted(rack.ledger().items()) if count))
    return status


async def _work(rack: Rack, args: argparse.Namespace) -> int:
    blades = list(rack.blades.values())
    options_ = rack.options
    async with Enroller(args.enroll, deploy_interface=args.deploy_interface, say=_say) as enroller:
        await enroller.enroll(blades, port=rack.ipmi_port, user=options_.user, password=options_.password)
        if not args.deploy:
            return 0
        image, checksum = args.image, args.image_checksum
        if not image:
            image, checksum = f"{rack.control.url}/image.raw", rack.control.image_sha256
        before = _cpu()
        figures = await enroller.deploy(blades, image, checksum)
    _say(str(figures))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    _say(f"the simulation took {(_cpu() - before) / max(1, figures.nodes) * 1000:.1f} ms of CPU for each and {peak} MiB in all")
    return 0 if set(figures.states) <= {"active"} and figures.nodes else 1


def _say_late(late: Histogram) -> None:
    """Whether the machines answered when they wanted to: with too little CPU they are slower than they say."""
    bound = late.below(0.99)
    _say(
        f"99 % of the time the simulation was at most {bound:g} s late" if bound < _LATE else f"the simulation had too little CPU: {_SLOW}"
    )


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _say(text: str) -> None:
    print(f"sim: {text}", flush=True)
