"""A network in a box: names, addresses, a forward proxy, TLS under a CA of its own, and a provider behind all of it.

The provider is the package's simulator behind a front that speaks TLS, and that hands results over as gateways do: as
JSON with a URL at a CDN, or as a redirect to a storage.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import json
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

API, CDN = "api.field.example", "cdn.field.example"
HOSTS = (API, CDN, "store.field.example", "field.example", "other.example")


@dataclass(frozen=True)
class TestCA:
    """A CA and one certificate for the hosts, as files."""

    __test__ = False

    ca: Path
    chain: Path

    @classmethod
    def at(cls, folder: Path) -> TestCA:
        now = datetime.now(timezone.utc) - timedelta(days=1)

        def signed(name: str, key: Any, issuer: str, by: Any, *extensions: Any) -> x509.Certificate:
            builder = x509.CertificateBuilder(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]),
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
                key.public_key(),
                x509.random_serial_number(),
                now,
                now + timedelta(days=30),
            )
            for extension, critical in extensions:
                builder = builder.add_extension(extension, critical)
            return builder.sign(by, hashes.SHA256())

        root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        use = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        ca_cert = signed("Field CA", root, "Field CA", root, (x509.BasicConstraints(True, None), True), (use, True))
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
        cert = signed("field", leaf, "Field CA", root, (x509.BasicConstraints(False, None), True), (names, False))
        pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        ca, chain = folder / "ca.pem", folder / "chain.pem"
        ca.write_bytes(ca_cert.public_bytes(pem))
        key = leaf.private_bytes(pem, private, serialization.NoEncryption())
        chain.write_bytes(cert.public_bytes(pem) + key)
        return cls(ca, chain)

    def hashed_folder(self, folder: Path) -> Path:
        """A folder in which OpenSSL finds the CA, as `openssl rehash` makes it."""
        folder.mkdir()
        (folder / f"{_subject_hash(self.ca)}.0").write_bytes(self.ca.read_bytes())
        return folder


def _subject_hash(file: Path) -> str:
    reported = subprocess.run(
        ["openssl", "x509", "-subject_hash", "-noout", "-in", file], capture_output=True, check=True
    )
    return reported.stdout.decode().strip()


@contextmanager
def _served(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve on a loopback port; yields the port."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 32

        def get_request(self) -> tuple[Any, Any]:
            connection, address = super().get_request()
            if context is not None:  # the handshake is made where the first byte is read: in the connection's thread
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            return connection, address

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that refuses the certificate is no error of the server's."""

    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Front:
    """The provider's front.

    Args:
        simulator: the simulator's base URL for TokenOps.
        key: its key.
    """

    simulator: str
    key: str
    content: str | None = None
    """In place of the file: `json URL` or `302 URL`; `{id}` stands for the job's id."""
    skew: timedelta = timedelta()
    html: bool = False
    assets: str | None = None
    """Where files below /assets are."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Host, path, and Authorization of each request."""
    port: int = 0
    tls_port: int = 0

    def paths(self, host: str) -> list[str]:
        return [path for asked, path, _ in self.asked if asked == host]

    def handler(self) -> type[BaseHTTPRequestHandler]:
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None: ...

            def date_time_string(self, timestamp: float | None = None) -> str:
                moment = datetime.now(timezone.utc) + front.skew
                return super().date_time_string(moment.timestamp())

            def do_GET(self) -> None:
                self.answer(None)

            def do_POST(self) -> None:
                self.answer(self.rfile.read(int(self.headers["Content-Length"])))

            def answer(self, body: bytes | None) -> None:
                host, key = self.headers["Host"].partition(":")[0], self.headers.get("Authorization")
                front.asked.append((host, self.path, key))
                self.send(*front.answer_to(host, self.path, key, body))

            def send(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        return Handler

    def answer_to(self, host: str, path: str, key: str | None, body: bytes | None) -> tuple[int, dict[str, str], bytes]:
        plain = urlsplit(path).path
        if self.html:
            return 200, {"Content-Type": "text/html"}, b"<html>Welcome</html>"
        if plain.startswith("/files/"):
            job = plain.removeprefix("/files/").removesuffix(".mp4")
            return self._simulated(f"/videos/{job}/content", None, self.key)
        if plain.startswith("/assets/") and self.assets is not None:
            answer = httpx.get(self.assets + plain.removeprefix("/assets"), trust_env=False)
            return answer.status_code, {"Content-Type": answer.headers["content-type"]}, answer.content
        if plain.startswith("/again"):
            return 302, {"Location": plain + "n"}, b""
        if plain.endswith("/content") and self.content is not None:
            how, _, url = self.content.partition(" ")
            url = url.format(id=plain.split("/")[-2])
            if how == "json":
                return 200, {"Content-Type": "application/json"}, json.dumps({"video_url": url}).encode()
            return int(how), {"Location": url}, b"moved"
        return self._simulated(path.removeprefix("/v1"), body, (key or "").removeprefix("Bearer "))

    def _simulated(self, path: str, body: bytes | None, key: str) -> tuple[int, dict[str, str], bytes]:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        with httpx.Client(trust_env=False, timeout=60.0) as client:
            answer = client.request(
                "GET" if body is None else "POST", self.simulator + path, content=body, headers=headers
            )
        return answer.status_code, {"Content-Type": answer.headers.get("content-type", "")}, answer.content


@contextmanager
def front(simulator: str, key: str, ca: TestCA) -> Iterator[Front]:
    served = Front(simulator, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca.chain)
    with _served(served.handler()) as served.port, _served(served.handler(), context) as served.tls_port:
        yield served


@dataclass
class ForwardProxy:
    """A forward proxy for CONNECT and plain requests, which resolves names by itself and knows no addresses.

    Args:
        front: where all names lead.
        password: what it requires, as `user:password`; None for nothing.
    """

    front: Front
    password: str | None = None
    asked: list[str] = field(default_factory=list)
    """Each target, such as `CONNECT host:443` or `GET http://host/path`."""
    port: int = 0

    @property
    def hosts(self) -> list[str]:
        return [
            urlsplit(f"//{target}" if "://" not in target else target).hostname or "" for _, target in self._words()
        ]

    def _words(self) -> list[tuple[str, str]]:
        return [(method, target) for method, _, target in (each.partition(" ") for each in self.asked)]

    def handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Handler", (_ProxyHandler,), {"proxy": self})


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ForwardProxy

    def log_message(self, *args: Any) -> None: ...

    def admitted(self, host: str | None) -> bool:
        self.proxy.asked.append(f"{self.command} {self.path}")
        password = self.proxy.password
        wanted = None if password is None else base64.b64encode(password.encode()).decode()
        if wanted is not None and self.headers.get("Proxy-Authorization") != f"Basic {wanted}":
            self.answer(407, {}, b"")
        elif host not in HOSTS:  # an address, or a name that is not known here
            self.answer(403, {}, b"")
        else:
            return True
        return False

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_CONNECT(self) -> None:
        if not self.admitted(self.path.rpartition(":")[0].strip("[]")):
            return
        with socket.create_connection(("127.0.0.1", self.proxy.front.tls_port)) as there:
            self.send_response(200)
            self.end_headers()
            _relay(self.connection, there)
        self.close_connection = True

    def do_GET(self) -> None:
        self.forward(None)

    def do_POST(self) -> None:
        self.forward(self.rfile.read(int(self.headers["Content-Length"])))

    def forward(self, body: bytes | None) -> None:
        parts = urlsplit(self.path)
        if not self.admitted(parts.hostname):
            return
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        headers = {name: value for name, value in self.headers.items() if not name.startswith("Proxy-")}
        with httpx.Client(trust_env=False, timeout=60.0) as client:
            url = f"http://127.0.0.1:{self.proxy.front.port}{path}"
            answer = client.request(self.command, url, content=body, headers=headers)
        passed = {name: answer.headers[name] for name in ("content-type", "location") if name in answer.headers}
        self.answer(answer.status_code, passed, answer.content)


def _relay(one: socket.socket, other: socket.socket) -> None:
    ends = {one: other, other: one}
    with contextlib.suppress(OSError):
        while True:
            for ready in select.select(list(ends), [], [], 60.0)[0]:
                data = ready.recv(65536)
                if not data:
                    return
                ends[ready].sendall(data)


@contextmanager
def forward_proxy(served: Front) -> Iterator[ForwardProxy]:
    proxy = ForwardProxy(served)
    with _served(proxy.handler()) as proxy.port:
        yield proxy


class Box:
    """What this process's resolver answers, and which machine is behind each address.

    Names below `.example` are resolved here alone; other names and addresses are as the system has them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[str]] = {}
        self.machines: dict[str, Front] = {}
        self.tried: list[str] = []
        self._resolve, self._connect = socket.getaddrinfo, asyncio.selector_events.BaseSelectorEventLoop.sock_connect
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)
        box, real = self, self._connect

        async def sock_connect(loop: Any, sock: socket.socket, address: Any) -> None:
            await real(loop, sock, box._through(sock, address))

        monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", sock_connect)

    def _getaddrinfo(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if not isinstance(name, str) or not name.endswith(".example"):
            return self._resolve(host, port, *args, **options)
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = []
        for address in self.names[name]:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            where = (address, port, 0, 0) if ":" in address else (address, port)
            found.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where))
        return found

    def _through(self, sock: socket.socket, address: Any) -> Any:
        host, port = str(ipaddress.ip_address(address[0])), address[1]
        if ipaddress.ip_address(host).is_loopback:
            return address
        self.tried.append(host)
        if host not in self.machines:
            raise ConnectionRefusedError(111, f"Connect call failed {address}")
        here = self.machines[host].tls_port if port == 443 else self.machines[host].port
        return ("::ffff:127.0.0.1", here, 0, 0) if sock.family == socket.AF_INET6 else ("127.0.0.1", here)
