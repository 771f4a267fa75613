"""A real Prefect server that can be killed and started again, with workers and deployments."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers import HTTP, Member, ask_api, member, until

from prefect_genmedia._core import Job, open_ledger
from prefect_genmedia.cli.local_server import free_port
from prefect_genmedia.simulator import RunningSimulator

PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"

# A lease is renewed after three quarters of five minutes; the tests' processes renew it after some seconds.
RENEWED_OFTEN = """
try:
    from prefect.concurrency import _leases
    _leases._RENEWAL_FRACTION = 0.02
except ImportError:
    pass
"""

SETUP = """
import json, sys
from prefect.client.orchestration import get_client
from prefect.flows import load_flow_from_entrypoint
from prefect_genmedia import TokenOpsCredentials
key, url, blocks, deployments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
for name, options in blocks.items():
    TokenOpsCredentials(api_key=key, base_url=url, **options).save(name, overwrite=True)
with get_client(sync_client=True) as client:
    for name, (entrypoint, options) in deployments.items():
        flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
        client.create_deployment(
            flow_id=client.create_flow(flow), name=name, entrypoint=entrypoint, work_pool_name="local",
            pull_steps=[], path=None, enforce_parameter_schema=False, **options,
        )
"""


@dataclass
class Crew:
    """A server with deployments, whose workers a test starts and kills."""

    home: Path
    simulator: RunningSimulator
    env: dict[str, str]
    port: int
    server: Member | None = None
    deployments: dict[str, str] = field(default_factory=dict)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Run the server, anew if it runs; what was in its database is there again, what was in its memory is not."""
        if self.server is not None:
            self.server.kill()
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with member("server", command, self.env, self.home) as server:
            until(lambda: HTTP.get(f"{self.api}/health").is_success, lambda: server.log.read_text()[-2000:])
            self.server = server
            yield

    def worker(self, name: str = "worker", **env: str) -> AbstractContextManager[Member]:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local", "--name", name]
        return member(name, command, self.env | env, self.home)

    def setup(self, blocks: dict[str, Any], deployments: dict[str, tuple[str, dict[str, Any]]]) -> None:
        """Make the work pool, the credentials Blocks with these options, and the deployments."""
        self.call("POST", "/work_pools/", {"name": "local", "type": "process"})
        given = [self.simulator.key, self.simulator.tokenops_url, json.dumps(blocks), json.dumps(deployments)]
        subprocess.run([sys.executable, "-c", SETUP, *given], env=self.env, check=True)
        found = self.call("POST", "/deployments/filter", {})
        self.deployments = {each["name"]: each["id"] for each in found}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return ask_api(self.api, method, path, body)

    def start(self, deployment: str, **parameters: Any) -> str:
        body = {"parameters": parameters}
        return str(self.call("POST", f"/deployments/{self.deployments[deployment]}/create_flow_run", body)["id"])

    def run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/flow_runs/{run}")
        return found

    def state(self, run: str) -> str:
        return str(self.run(run)["state"]["name"])

    def set_state(self, run: str, kind: str, name: str | None = None, force: bool = False) -> Any:
        state = {"type": kind, "name": name} if name else {"type": kind}
        return self.call("POST", f"/flow_runs/{run}/set_state", {"state": state, "force": force})

    def suspend(self, run: str) -> None:
        """As the UI's button does."""
        state = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_reschedule": True}}
        self.call("POST", f"/flow_runs/{run}/set_state", {"state": state})

    def resume(self, run: str, **answer: Any) -> None:
        self.call("POST", f"/flow_runs/{run}/resume", {"run_input": answer} if answer else {})

    def logs(self, run: str) -> str:
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(each["message"] for each in self.call("POST", "/logs/filter", wanted))

    def artifacts(self, run: str) -> str:
        found = self.call("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return "\n".join(str(each["data"]) for each in found)

    def children(self, run: str) -> list[str]:
        found = self.call("POST", "/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}})
        return [str(each["id"]) for each in found]

    def events(self, name: str, run: str | None = None) -> int:
        """How many events of a name the server has stored, of any run or of one."""
        wanted: dict[str, Any] = {"event": {"name": [name]}}
        if run is not None:
            wanted["related"] = {"id": [f"prefect.flow-run.{run}"]}
        return int(self.call("POST", "/events/filter", {"filter": wanted})["total"])

    def taken(self, limit: str) -> int:
        return int(self.call("GET", f"/v2/concurrency_limits/{limit}")["active_slots"])

    def jobs(self) -> list[Job]:
        async def read() -> list[Job]:
            async with open_ledger(self.env[f"{PREFIX}LEDGER_URL"]) as ledger:
                return await ledger.jobs()

        return asyncio.run(read())

    def pids(self, run: str) -> list[int]:
        """The processes that execute a flow run."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if run.encode() in environ.read_bytes():
                    found.append(int(environ.parent.name))
            except OSError:
                continue
        return found

    def kill(self, run: str) -> None:
        """SIGKILL the processes of one flow run."""
        for pid in self.pids(run):
            os.kill(pid, signal.SIGKILL)


def new_crew(home: Path, simulator: RunningSimulator, **settings: str) -> Crew:
    """A server that does not run yet, on a port of its own."""
    (home / "often").mkdir()
    (home / "often" / "sitecustomize.py").write_text(RENEWED_OFTEN)
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(home / "often"),
        f"{PREFIX}LEDGER_URL": f"sqlite:///{home / 'ledger.db'}",
        f"{PREFIX}OUTPUT": str(home / "media"),
        f"{PREFIX}POLL_SHORTEST_SECONDS": "0.2",
        f"{PREFIX}POLL_LONGEST_SECONDS": "1",
        **settings,
    }
    return Crew(home, simulator, env, port)
