"""The notification hook: a command of the user's own that is given one message."""

from __future__ import annotations

import shlex
import subprocess

NOTIFY_SECONDS = 30


def notify(command: str, message: str) -> bool:
    """Run `command` with the message as its last argument; False when there is none or it failed.

    A failing hook never hides the failure it reports, so nothing is raised here.
    """
    if not command:
        return False
    try:
        done = subprocess.run([*shlex.split(command), message], timeout=NOTIFY_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
