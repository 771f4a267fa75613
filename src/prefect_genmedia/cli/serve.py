"""`prefect-genmedia serve`: the viewer as a process."""

from __future__ import annotations

from rich.console import Console

from prefect_genmedia._prefect.viewer import viewer
from prefect_genmedia.cli.callbacks import serve_app
from prefect_genmedia.cli.ledger import name_ledger
from prefect_genmedia.cli.listening import listening_socket

SETTING = "PREFECT_INTEGRATIONS_GENMEDIA_VIEWER_URL"


def serve_files(host: str, port: int, console: Console) -> int:
    """Serve until interrupted; returns the exit status.

    Args:
        host: address to listen on.
        port: port to listen on.
        console: where to say what happens.
    """
    bound = listening_socket(host, port)
    shown = f"http://{host}:{bound.getsockname()[1]}"
    console.print(f"Delivered files of {name_ledger()} at {shown}/files/JOB_KEY (Ctrl-C ends it)", soft_wrap=True)
    console.print(f"Links lead here where flows run with {SETTING}={shown}", soft_wrap=True)
    serve_app(viewer(), bound)
    return 0
