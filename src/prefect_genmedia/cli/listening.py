"""The address that a command serves: bound before anything else is done, so that a busy port is one sentence."""

from __future__ import annotations

import errno
import socket
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from prefect_genmedia.cli.console import stop

Port = Annotated[int, Parameter(validator=Number(gte=0, lte=65535))]
"""A port; 0 takes a free one."""


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound to the address; ends the command in a sentence where that cannot be.

    Args:
        host: the address.
        port: the port; 0 for a free one.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:
        reason, step = getattr(error, "strerror", None) or type(error).__name__, "choose another one with --port"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            reason = "another program listens there"
        elif isinstance(error, UnicodeError | socket.gaierror) or getattr(error, "errno", 0) == errno.EADDRNOTAVAIL:
            step = "choose an address of this machine with --host"
        stop(f"{host}:{port} cannot be listened on: {reason}. Next: {step}.")
    return bound
