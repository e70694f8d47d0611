"""Kickstart files: what tells the Anaconda installer to write an image, or packages, and to report to metald.

A template is text with places `{{ ks_options.NAME }}` and parts `{% if 'NAME' in ks_options %} ... {% else %} ... {% endif %}`,
as Ironic's templates have. Nothing else is interpreted: a template comes from a user, and no expression of theirs runs here.

Options: `liveimg_url`, `agent_token`, `heartbeat_url`, `config_drive`; `is_source_a_path` is there when packages come from a
tree, `insecure_heartbeat` when the installer shall not check the API's certificate.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping

from metald.errors import Invalid
from metald.images.config_drive import files_of
from metald.model import Node

TEMPLATE = "kickstart_template"
"""Where `driver_internal_info` has the template of a node that does not take metald's own."""
LARGEST = 64 << 10
"""Bytes of a template."""
REQUIRED = ("agent_token", "heartbeat_url")
"""Options without which an installation could not report its end."""

_MARK = re.compile(r"\{\{-?\s*ks_options\.(\w+)\s*-?\}\}|\{%-?\s*(?:if\s+'(\w+)'\s+in\s+ks_options|(else)|(endif))\s*-?%\}\n?")
_KNOWN = frozenset({"liveimg_url", "agent_token", "heartbeat_url", "config_drive", "is_source_a_path", "insecure_heartbeat"})
_SEED = "/var/lib/cloud/seed/config_drive/openstack"


def _report(status: str, message: str) -> str:
    return f"""/usr/bin/curl {{% if 'insecure_heartbeat' in ks_options %}}--insecure {{% endif %}}-s -X POST \\
  -H 'Content-Type: application/json' -H 'X-OpenStack-Ironic-API-Version: 1.72' \\
  -d '{{"callback_url": "", "agent_token": "{{{{ ks_options.agent_token }}}}", "agent_status": "{status}", \
"agent_status_message": "{message}"}}' {{{{ ks_options.heartbeat_url }}}}"""


DEFAULT = f"""# Installs the image of a metald deployment.
text
cmdline
reboot
lang en_US
keyboard us
timezone UTC --utc
rootpw --lock
firstboot --disabled
bootloader --location=mbr
zerombr
clearpart --all --initlabel
autopart
{{% if 'is_source_a_path' in ks_options %}}
url --url {{{{ ks_options.liveimg_url }}}}
%packages --ignoremissing
%end
{{% else %}}
liveimg --url {{{{ ks_options.liveimg_url }}}}
{{% endif %}}
%pre
{_report("start", "The installation begins.")}
%end
%onerror
{_report("error", "The installation failed; the console says why.")}
%end
{{{{ ks_options.config_drive }}}}
%post
sync
{_report("end", "The installation is complete.")}
%end
"""
"""metald's own template."""


def check(template: str, label: str) -> None:
    """Whether a template can be used.

    Raises:
        Invalid: it has an option that does not exist, lacks one that must be there, or a part that does not end.
    """
    used = set()

    def option(name: str) -> str:
        used.add(name)
        return ""

    for on in (frozenset(_KNOWN), frozenset[str]()):
        _filled(template, dict.fromkeys(_KNOWN, ""), on, label, option)
    missing = [name for name in REQUIRED if name not in used]
    if missing:
        raise Invalid(
            f"Node {label}: the kickstart template lacks ks_options.{missing[0]}.",
            remedy="The installation must report its end; see docs/howto/deploy-interfaces.md.",
            field="instance_info/ks_template",
        )


def render(node: Node, heartbeat_url: str) -> str:
    """The kickstart file of a node that an installer deploys.

    Raises:
        Invalid: the node has no image or token, or its template cannot be used.
    """
    info = node.driver_internal_info
    source, token = node.instance_info.get("image_source"), info.get("agent_secret_token")
    if not source or not token:
        raise Invalid(f"Node {node.label}: no installation is under way.", field="instance_info/image_source")
    options = {
        "liveimg_url": str(source),
        "agent_token": str(token),
        "heartbeat_url": heartbeat_url,
        "config_drive": _config_drive(node),
        "is_source_a_path": "",
        "insecure_heartbeat": "",
    }
    on = frozenset({"is_source_a_path"} if is_path(str(source)) else ())
    return _filled(str(info.get(TEMPLATE) or DEFAULT), options, on, node.label, options.__getitem__)


def is_path(source: str) -> bool:
    """Whether an image source is a tree of packages, and not an image."""
    return source.endswith("/")


def _filled(template: str, options: Mapping[str, str], on: frozenset[str], label: str, value: object) -> str:
    """The template with its options in place; `on` are the flags that are there."""
    assert callable(value)
    text: list[str] = []
    shown = [True]
    at = 0
    for mark in _MARK.finditer(template):
        if all(shown):
            text.append(template[at : mark.start()])
        at = mark.end()
        name, condition, other, end = mark.groups()
        if (name or condition) and (name or condition) not in options:
            raise _wrong(label, f"ks_options.{name or condition} does not exist", f"There are: {', '.join(sorted(options))}.")
        if condition:
            shown.append(condition in on or condition not in ("is_source_a_path", "insecure_heartbeat"))
        elif (other or end) and len(shown) == 1:
            raise _wrong(label, f"{other or end} without if", "")
        elif other:
            shown[-1] = not shown[-1]
        elif end:
            shown.pop()
        elif all(shown):
            text.append(value(name))
    if len(shown) > 1:
        raise _wrong(label, "an if does not end", "Close it by {% endif %}.")
    text.append(template[at:])
    return "".join(text)


def _wrong(label: str, what: str, remedy: str) -> Invalid:
    return Invalid(f"Node {label}: its kickstart template cannot be used: {what}.", remedy=remedy, field="instance_info/ks_template")


def _config_drive(node: Node) -> str:
    """A section that puts the config drive's files where cloud-init looks for them in the installed system."""
    given = node.instance_info.get("configdrive")
    if not isinstance(given, Mapping):
        return ""
    lines = [f"mkdir -p {_SEED}/latest"]
    for name, data in files_of(given, node).items():
        text = base64.b64encode(data).decode()
        lines.append(f"echo {text} | base64 -d > {shlex.quote(f'{_SEED}/latest/{name}')}")
    return "\n".join(["%post", *lines, f"chmod -R go-rwx {_SEED}", "%end"])
