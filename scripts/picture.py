"""Draws the README's picture from what a real demo run printed: `make demo | tee run.log; scripts/picture.py run.log docs/demo.svg`."""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

_COLUMNS = 118
_LINE, _CHAR, _MARGIN, _BAR = 17.0, 7.83, 18, 34
_HUES = {
    "BMC": "#e5c07b",
    "machine": "#e5c07b",
    "DHCP": "#c678dd",
    "TFTP": "#c678dd",
    "HTTP": "#61afef",
    "ramdisk": "#56b6c2",
    "write": "#98c379",
    "SSH": "#98c379",
}
_DULL = ("network.", "boot.clean_up", "boot.prepare_instance", "deploy.wait_ramdisk", "boot/ready", "boot/authorized", "boot/dropbear")


def chosen(log: str) -> list[str]:
    """The lines that tell the story: the logins, the first machine's time-line, and the end."""
    lines = log.splitlines()
    logins = [line for line in lines if "uname -a" in line]
    begin = next(number for number, line in enumerate(lines) if line.startswith("== Time-lines"))
    end = next(number for number in range(begin, len(lines)) if lines[number].startswith("m1"))
    story = [line for line in lines[begin:end] if line and not any(word in line for word in _DULL)]
    rest = [line for line in lines[end:] if line.startswith(("metald used", "== Done"))]
    return ["$ make demo", "  ...", *logins, "", *story, "  ...", "", *rest]


def wrapped(line: str) -> list[str]:
    """The line in pieces that fit."""
    pieces = []
    while len(line) > _COLUMNS:
        cut = line.rfind(" ", 20, _COLUMNS)
        cut = cut if cut > 0 else _COLUMNS
        pieces.append(line[:cut])
        line = " " * 19 + line[cut:].lstrip()
    return [*pieces, line]


def drawn(line: str, y: float) -> str:
    """One line of text as SVG."""
    words = line.split()
    hue = "#abb2bf"
    if line.startswith(("==", "$", "m0")):
        hue = "#ffffff"
    elif len(words) > 1 and words[1] in _HUES:
        hue = _HUES[words[1]]
    elif "uname -a" in line:
        hue = "#98c379"
    return f'<text x="{_MARGIN}" y="{y:.0f}" fill="{hue}" xml:space="preserve">{escape(line)}</text>'


def picture(log: str) -> str:
    """The whole SVG."""
    lines = [piece for line in chosen(log) for piece in wrapped(line)]
    width = _COLUMNS * _CHAR + 2 * _MARGIN
    height = _BAR + _LINE * (len(lines) + 1)
    body = [drawn(line, _BAR + _LINE * (number + 0.8)) for number, line in enumerate(lines)]
    dots = [f'<circle cx="{20 + 18 * n}" cy="17" r="5.5" fill="{hue}"/>' for n, hue in enumerate(("#ff5f56", "#ffbd2e", "#27c93f"))]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" role="img">',
            "<title>A run of make demo</title>",
            f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#21252b"/>',
            *dots,
            '<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace" font-size="13">',
            *body,
            "</g>",
            "</svg>",
            "",
        ]
    )


def main(arguments: list[str]) -> int:
    """Read the log, write the picture."""
    if len(arguments) != 2:
        sys.stderr.write("usage: scripts/picture.py RUN.log PICTURE.svg\n")
        return 2
    Path(arguments[1]).write_text(picture(Path(arguments[0]).read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
