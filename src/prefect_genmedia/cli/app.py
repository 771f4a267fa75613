"""The commands. Each one imports what it needs by itself, so that `--help` answers at once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number
from prefect.settings import PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

from prefect_genmedia.cli.console import command_console, stop
from prefect_genmedia.cli.guard import ending_in_sentences
from prefect_genmedia.cli.listening import Port

app = App(
    name="prefect-genmedia",
    help="Paid, asynchronous media generation with Prefect: paid once, delivered means verified.",
    version=version("prefect-genmedia"),
)

JOBS = """Look into the job ledger, and settle what only a person can.

For example:
```
prefect-genmedia jobs list --state unknown
prefect-genmedia jobs show 3f2a
```
Next: `adopt`, `resubmit` or `abandon` what is unknown, then run its flow again.
"""

ACCOUNTS = """List, rename and merge the accounts that pay; pause and resume what is sent for them.

For example:
```
prefect-genmedia accounts list
prefect-genmedia accounts pause default --reason "the key has leaked"
```
"""

LEDGER = """Back the job ledger up, restore it, check it, and give the room of pruned jobs back.

For example:
```
prefect-genmedia ledger backup ledger-2026-05-01.db
prefect-genmedia ledger check --files
```
Next: keep backups where the ledger's own disk does not matter.
"""

CONFIRM = """List the runs that ask a person before they pay, and answer them.

For example:
```
prefect-genmedia confirm list
prefect-genmedia confirm approve 5d41402a
```
Next: an approved run goes on by itself; a rejected one ends with `NotConfirmed`.
"""

DEPLOY = """Apply Blocks, work pool, limits, deployments and automations to the server in PREFECT_API_URL.

Run it as often as you like: it creates what is missing, updates what differs, and leaves alone what does not.
Schedules and automations that were switched on or off in the UI stay so.

For example, with keys in the environment variables that `blocks/documents.yaml` names:
```
prefect-genmedia deploy --check
prefect-genmedia deploy
```
Next: `prefect worker start --pool genmedia`. Schedules that pay are off: switch them on in the UI.
"""

DOCTOR = """Find out what is wrong between this machine and the providers, without paying: one table.

It checks proxy, certificates, name resolution, clock, base URL and key of each saved credentials Block, the ledger, the
output, the storage of inputs, and whether paid jobs wait to be collected. Ends with status 1 if there is a problem.

For example:
```
prefect-genmedia doctor
prefect-genmedia doctor BLOCK
```
Next: do what the last column says. Run it where the flows run, with the worker's environment.
"""

MAKE = """Make one result of any kind: submit, wait, download, verify. No flow and no Prefect server is needed.

The same command again gets the same result, and pays nothing: also after Ctrl-C.

For example:
```
prefect-genmedia make jimeng --prompt "a lake at dawn" --output lake.mp4
prefect-genmedia make poster --help
```
Next: `prefect-genmedia jobs list` has what was made.
"""

SPEND = """Show what was spent, by project, account, model or day: estimates by the price table, not bills.

For example:
```
prefect-genmedia spend --by project --since 30d
prefect-genmedia spend --by day --time-zone Asia/Shanghai --format csv --output spend.csv
```
Next: `prefect-genmedia bill import` compares them with a provider's bill.
"""

BILL = """Compare a provider's bill with the ledger, and export what to claim. Nothing is paid and no job is changed.

For example:
```
prefect-genmedia bill import november.csv --mapping tokenops.toml --claim claim.csv
```
Next: send the claim to the provider; each line has the ids, times and words that prove it.
"""

BATCH = """Make every row of a table, as a run of the flow generate_batch in this process; run it again to do the rest.

The run, its progress, its failures and its gallery are in the UI of the server in PREFECT_API_URL.

For example:
```
prefect-genmedia batch rows.csv --dry-run
prefect-genmedia batch rows.csv --max-cost 20
```
Next: the table of results, whose path it prints.
"""

REPORT = """Write a batch's report page again: players, filters, search, costs; one HTML file beside its files.

For example:
```
prefect-genmedia report postcards
prefect-genmedia report postcards --results postcards.results.csv
```
Next: open the file that it prints in a browser.
"""

INIT = """Write a small project: a flow, `prefect.yaml`, `.env.example` and a table. No file is replaced.

For example:
```
prefect-genmedia init my-media
```
Next: the commands that it prints. They run against the simulator, without a key, until you replace its address.
"""

# What these say of themselves stands here: taking it from their modules would load them for each `--help`.
app.command("prefect_genmedia.cli.jobs:app", name="jobs", help=JOBS)
app.command("prefect_genmedia.cli.accounts:app", name="accounts", help=ACCOUNTS)
app.command("prefect_genmedia.cli.confirm:app", name="confirm", help=CONFIRM)
app.command("prefect_genmedia.cli.upkeep:app", name="ledger", help=LEDGER)
app.command("prefect_genmedia.cli.deploy:deploy", name="deploy", help=DEPLOY)
app.command("prefect_genmedia.cli.doctor:doctor", name="doctor", help=DOCTOR)
app.command("prefect_genmedia.cli.make:app", name="make", help=MAKE)
app.command("prefect_genmedia.cli.batch:batch", name="batch", help=BATCH)
app.command("prefect_genmedia.cli.spend:spend", name="spend", help=SPEND)
app.command("prefect_genmedia.cli.bill:app", name="bill", help=BILL)
app.command("prefect_genmedia.cli.report:report", name="report", help=REPORT)
app.command("prefect_genmedia.cli.init:init", name="init", help=INIT)
app.register_install_completion_command()


@app.command
def simulator(
    *,
    host: str = "127.0.0.1",
    port: Port = 8787,
    queue_seconds: Annotated[float, Parameter(validator=Number(gte=0))] = 1.0,
    run_seconds: Annotated[float, Parameter(validator=Number(gte=0))] = 4.0,
    subjects: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    key: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)] = (),
) -> None:
    """Serve a double of the providers, to develop against without paying.

    For example:
    ```
    prefect-genmedia simulator --run-seconds 1
    ```
    Next: save a credentials Block with the `base_url` and `api_key` that it prints.

    Parameters
    ----------
    host
        Address to listen on.
    port
        Port to listen on; 0 takes a free one.
    queue_seconds
        How long each job waits before it is worked on.
    run_seconds
        How long each job is worked on.
    subjects
        How many people detection finds; by default two in the shipped portrait, one elsewhere.
    key
        API keys that are accepted; `sk-simulator` by default.
    """
    import asyncio

    from prefect_genmedia.cli.listening import listening_socket
    from prefect_genmedia.simulator.app import installed_dialects
    from prefect_genmedia.simulator.server import serve
    from prefect_genmedia.simulator.world import DEFAULT_KEY, Settings, World

    console = command_console()
    keys = frozenset(key) or frozenset({DEFAULT_KEY})
    world = World(Settings(queue_seconds, run_seconds, subjects), keys)

    def announce(url: str) -> None:
        console.print(f"[bold]Simulator[/] at {url} (Ctrl-C ends it)")
        for dialect in installed_dialects():
            title = dialect.title or dialect.name
            console.print(f"  {title:<10} base_url={url}{dialect.prefix}  api_key={'…' if key else DEFAULT_KEY}")
        console.print(f"  Samples    {url}/assets/portrait.jpg  {url}/assets/speech.mp3", soft_wrap=True)
        console.print(f"  Inbox      PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL={url}/inbox", soft_wrap=True)
        console.print(f"  Control    GET {url}/control/report · GET, POST {url}/control/faults", soft_wrap=True)

    asyncio.run(serve(world, listening_socket(host, port), announce))


@app.command
def callbacks(*, host: str = "127.0.0.1", port: Port = 8788) -> None:
    """Receive the providers' callbacks; waiting runs notice a finished job at once.

    Needs PREFECT_INTEGRATIONS_GENMEDIA_CALLBACK_SECRET, here and where the flows run, and a ledger that both reach.

    For example:
    ```
    prefect-genmedia callbacks --host 0.0.0.0
    ```
    Next: set PREFECT_INTEGRATIONS_GENMEDIA_CALLBACK_URL to its public address where the flows run.

    Parameters
    ----------
    host
        Address to listen on; 0.0.0.0 listens on every interface.
    port
        Port to listen on.
    """
    from prefect_genmedia.cli.callbacks import serve_callbacks

    sys.exit(serve_callbacks(host, port, command_console(stderr=True)))


@app.command
def serve(*, host: str = "127.0.0.1", port: Port = 8789) -> None:
    """Let browsers play delivered files: those of this disk, and those of buckets through fresh signed URLs.

    Whoever reaches the address may watch what the ledger has: give it the access control of the Prefect UI.

    For example:
    ```
    prefect-genmedia serve
    ```
    Next: set PREFECT_INTEGRATIONS_GENMEDIA_VIEWER_URL to its address where the flows run; cards then link to it.

    Parameters
    ----------
    host
        Address to listen on; 0.0.0.0 listens on every interface.
    port
        Port to listen on.
    """
    from prefect_genmedia.cli.serve import serve_files

    sys.exit(serve_files(host, port, command_console(stderr=True)))


@app.command
def demo(
    *,
    output: Path = Path("demo-output"),
    keep: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Run the main job on a Prefect server of its own, against the simulator: a portrait speaks a recording.

    For example:
    ```
    prefect-genmedia demo --keep
    ```
    Next: open the run's page, whose address it prints, in a browser.

    Parameters
    ----------
    output
        Folder for the video.
    keep
        Leave server and simulator up afterwards, to look at the UI, until Ctrl-C.
    """
    from prefect_genmedia.cli.demo import run_demo

    sys.exit(run_demo(output, keep, command_console()))


@app.command
def reconcile(
    *,
    every: timedelta | None = None,
    credentials: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ("default",),
) -> None:
    """Deliver the jobs whose runs were lost, before they expire; one line a round. Ctrl-C or SIGTERM ends it.

    A process of its own cannot be kept waiting by other runs, nor by a Prefect server that is away: then it takes the
    keys from the environment variables that `blocks/documents.yaml` names, or those that it has read before.
    Any number of these may run at once: one of them works.

    For example:
    ```
    prefect-genmedia reconcile --every 10m
    ```
    Next: `prefect-genmedia jobs list` warns when jobs wait and no round has succeeded for 20 minutes.

    Parameters
    ----------
    every
        Time from one round to the next, such as 10m; one round alone if it is not given.
    credentials
        Names of credentials Blocks, of any provider.
    """
    from prefect_genmedia.cli.reconcile import run_reconcile

    if every is not None and every.total_seconds() <= 0:
        stop("--every takes a time such as 10m or 30s, longer than 0.")
    sys.exit(run_reconcile(every.total_seconds() if every else None, credentials, command_console()))


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        words: what was typed after the program's name; None takes the process's own.
    """
    # Prefect says each second that an event of a command is not sent yet, which nobody has to know.
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)
    # Prefect would start a temporary server for a minute, and lose what it was told when the command ends.
    with ending_in_sentences(), temporary_settings({PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}):
        app(words)
