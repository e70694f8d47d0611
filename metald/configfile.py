"""Reads the settings from file and environment, and writes the documented conf/metald.toml.

A wrong setting is a ConfigError that says where it stands, what is wrong, and what is allowed.
"""

from __future__ import annotations

import os
import textwrap
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from metald.config import Amqp, ConfigError, Section, Settings, parse_listen

_PREFIX = "METALD__"


def load(path: Path | None = None, environ: dict[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        path: a TOML file; none when None.
        environ: the environment; the process's own when None.

    Raises:
        ConfigError: a file cannot be read or a setting is wrong; says where, what, and the remedy.
    """
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if path is not None:
        tree = _read(path)
        _remember(tree, "", str(path), origins)
    for name, text in sorted((dict(os.environ) if environ is None else environ).items()):
        if name.startswith(_PREFIX):
            _put(tree, name, text, origins)
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), origins)) from None
    _cross_check(settings)
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}.") from None


def _remember(tree: dict[str, Any], prefix: str, origin: str, origins: dict[str, str]) -> None:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        origins[name] = origin
        if isinstance(value, dict):
            _remember(value, f"{name}.", origin, origins)


def _put(tree: dict[str, Any], name: str, text: str, origins: dict[str, str]) -> None:
    """Place the value of one environment variable into the tree, converted to the setting's type."""
    keys = name.removeprefix(_PREFIX).lower().split("__")
    kind: Any = Settings
    for key in keys:
        fields = {f.name: f.type for f in msgspec.structs.fields(kind)} if _is_section(kind) else {}
        if key not in fields:
            known = ", ".join(fields) or "no further level"
            raise ConfigError(f"Environment variable {name}: there is no setting {key!r} here. Known: {known}.")
        kind = fields[key]
    if _is_section(kind):
        raise ConfigError(f"Environment variable {name}: {'.'.join(keys)} is a section, not a setting.")
    node = tree
    for position, key in enumerate(keys[:-1], 1):
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            section = ".".join(keys[:position])
            raise ConfigError(f"{origins[section]}: {section} is a section, not a setting. Write [{section}] above its settings.")
    node[keys[-1]] = _from_text(text, kind, name)
    origins[".".join(keys)] = f"environment variable {name}"


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _from_text(text: str, kind: Any, name: str) -> Any:
    base = _plain(kind)
    if get_origin(base) is list:
        return [item.strip() for item in text.split(",") if item.strip()]
    if base is str or get_origin(base) is Literal:
        return text
    try:
        return msgspec.convert(text.strip(), base, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"Environment variable {name}: {error}; it is {text!r}.") from None


def _explain(text: str, origins: dict[str, str]) -> str:
    what, _, where = text.partition(" - at `$.")
    path = where.rstrip("`")
    if "enum value" in what:
        what = f"{what}. Allowed: {', '.join(_choices(path))}"
    origin = origins.get(path) or next((o for p, o in origins.items() if path and p.startswith(path)), "")
    if "unknown field" in what:
        unknown = what.rpartition("field ")[2].strip("`")
        full = f"{path}.{unknown}" if path else unknown
        origin = origins.get(full, origin)
        return f"{origin or 'settings'}: there is no setting {full}. Run `metald config-reference` for all settings."
    return f"{origin or 'settings'}: {path or 'top level'}: {what}."


def _choices(path: str) -> tuple[str, ...]:
    kind: Any = Settings
    for key in path.split("."):
        kind = {f.name: f.type for f in msgspec.structs.fields(kind)}[key]
    found: tuple[str, ...] = get_args(_plain(kind))
    return found


def _cross_check(settings: Settings) -> None:
    """What no single field can say."""
    api = settings.api
    if api.auth == "http_basic" and not api.htpasswd:
        raise ConfigError('api.auth is "http_basic" but api.htpasswd names no file. Make one with `htpasswd -nbB user password`.')
    if bool(api.tls_certificate) != bool(api.tls_key):
        raise ConfigError("api.tls_certificate and api.tls_key go together; set both or neither.")
    if bool(settings.boot.http_tls_certificate) != bool(settings.boot.http_tls_key):
        raise ConfigError("boot.http_tls_certificate and boot.http_tls_key go together; set both or neither.")
    try:
        parse_listen(api.listen)
    except ValueError as error:
        raise ConfigError(f"api.listen: {error}.") from None
    _check_amqp(settings.amqp)
    scheme = settings.store.url.partition("://")[0]
    if settings.store.url and scheme not in ("sqlite", "postgresql"):
        raise ConfigError(f"store.url: scheme {scheme!r} is not known. Use sqlite:///path or postgresql://user:password@host/database.")
    dhcp = settings.dhcp
    if dhcp.provider == "dnsmasq" and not (dhcp.dnsmasq_hostsdir and dhcp.dnsmasq_optsdir):
        raise ConfigError('dhcp.provider is "dnsmasq" but dhcp.dnsmasq_hostsdir or dhcp.dnsmasq_optsdir is not set.')


def _check_amqp(amqp: Amqp) -> None:
    # the address holds a password: no text of an error shows it
    scheme, _, rest = amqp.url.partition("://")
    if amqp.url and (scheme not in ("amqp", "amqps") or not rest):
        raise ConfigError("amqp.url is no address of a broker. Write amqp://user:password@host/vhost, or amqps:// for TLS.")
    if bool(amqp.tls_certificate) != bool(amqp.tls_key):
        raise ConfigError("amqp.tls_certificate and amqp.tls_key go together; set both or neither.")
    if amqp.tls_ca and amqp.url and scheme != "amqps":
        raise ConfigError("amqp.tls_ca is set, but amqp.url does not ask for TLS. Write amqps:// in amqp.url.")


def reference() -> str:
    """conf/metald.toml: every setting with its meaning and its default, commented out."""
    lines = [
        "# Settings of metald. Every line that is commented out shows the default.",
        "# Each can also come from the environment: METALD__SECTION__KEY, for example METALD__API__LISTEN.",
    ]
    _section_reference(Settings, Settings(), "", lines)
    return "\n".join(lines) + "\n"


def _section_reference(kind: type[Section], values: Section, prefix: str, lines: list[str]) -> None:
    subsections = []
    for field in msgspec.structs.fields(kind):
        value = getattr(values, field.name)
        if isinstance(value, Section):
            subsections.append((field.name, value))
            continue
        lines.append("")
        description = next((m.description for m in get_args(field.type)[1:] if isinstance(m, Meta) and m.description), "")
        lines.extend(f"# {line}" for line in textwrap.wrap(description or "Seconds that one call takes.", 110))
        choices = get_args(_plain(field.type)) if get_origin(_plain(field.type)) is Literal else ()
        if choices:
            lines.append(f"# One of: {', '.join(choices)}.")
        lines.append(f"#{field.name} = {msgspec.json.encode(value).decode()}")
    for name, value in subsections:
        full = f"{prefix}{name}"
        lines += ["", f"# {(type(value).__doc__ or '').strip().splitlines()[0]}", f"[{full}]"]
        _section_reference(type(value), value, f"{full}.", lines)
