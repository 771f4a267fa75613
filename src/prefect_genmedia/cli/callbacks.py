"""`prefect-genmedia callbacks`: the receiver as a process."""

from __future__ import annotations

import uvicorn
from rich.console import Console

from prefect_genmedia.callbacks.receiver import callback_receiver
from prefect_genmedia.errors import InvalidRequest


def serve_callbacks(host: str, port: int, console: Console) -> int:
    """Serve until interrupted; returns the exit status.

    Parameters:
        host: address to listen on.
        port: port to listen on.
        console: where to say what happens.
    """
    try:
        app = callback_receiver()
    except InvalidRequest as error:
        console.print(f"[red]{error.message}[/]")
        return 2
    # Access logs would hold the tokens of the paths.
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="warning")
    return 0
