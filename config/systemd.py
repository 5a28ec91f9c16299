"""What a process tells systemd (sd_notify): "READY=1" once, "WATCHDOG=1" after each cycle.

Elsewhere, without NOTIFY_SOCKET in the environment, nothing happens.
"""

from __future__ import annotations

import os
import socket


def tell_systemd(state: str) -> None:
    """Raises OSError when systemd gave a socket that does not take the message."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        # @ is how systemd writes an abstract socket, whose name begins with a zero byte
        name = "\0" + address[1:] if address.startswith("@") else address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notice:
            notice.sendto(state.encode(), name)
