"""One message per event, to where people look: a web hook, a command, a file.

LATENTVLA_TELL_URL: a POST of JSON {event, title, text, key}; Slack, Teams, Mattermost read `text`.
LATENTVLA_TELL_COMMAND: the text on its standard input, the title in $LATENTVLA_TITLE (`mail -s`).
LATENTVLA_TELL_FILE: a line of JSON.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What happened, in words."""

    event: str
    """run_failed, gate_refused, promoted or stale."""
    title: str
    text: str
    key: str
    """Same event, same key: receivers can drop repeats."""


def tell(message: Message, env: Mapping[str, str] | None = None) -> list[str]:
    """Send it everywhere it should go; faults of receivers, which never stop a night."""
    env = os.environ if env is None else env
    ways = {
        "LATENTVLA_TELL_URL": _post,
        "LATENTVLA_TELL_COMMAND": _pipe,
        "LATENTVLA_TELL_FILE": _append,
    }
    faults = []
    for variable, way in ways.items():
        if place := env.get(variable):
            try:
                way(place, message)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                faults.append(f"{variable} {place!r}: {error}; {message.title} was not told there")
    return faults


def _post(url: str, message: Message) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError("needs an http:// or https:// address")
    body = json.dumps({**asdict(message), "text": f"{message.title}\n{message.text}"}).encode()
    head = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, head), timeout=TIMEOUT_S):
        pass


def _pipe(command: str, message: Message) -> None:
    env = {**os.environ, "LATENTVLA_TITLE": message.title, "LATENTVLA_EVENT": message.event}
    subprocess.run(
        shlex.split(command), input=message.text, text=True, env=env, check=True, timeout=TIMEOUT_S
    )


def _append(path: str, message: Message) -> None:
    with Path(path).open("a") as file:
        file.write(json.dumps(asdict(message)) + "\n")
