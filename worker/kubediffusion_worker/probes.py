"""The plain HTTP port: probes for the kubelet, metrics for Prometheus.

It has threads of its own, so that it answers, and says what is wrong, when the event loop
hangs. It shows no more than states and counts, hence no TLS.
"""

import http
import http.server
import socket
import threading
import time
from collections.abc import Callable

import prometheus_client

from kubediffusion_wire import addresses, channels
from kubediffusion_worker import vitals

MAX_CONNECTIONS = 32
"""At once; more are closed unanswered."""

STOP_SECONDS = 0.1
"""Between two looks at whether to stop."""

REQUEST_SECONDS = 5.0
"""For one request to arrive; slow clients are cut off."""


class ProbeServer:
    """Answers probes and scrapes from threads of its own.

    Args:
        listen: `host:port`.
        facts: What the probes are answered from; called on any thread.
        metrics: The text of the metrics.

    Raises:
        ListenError: The address is in use, or not of this machine.
    """

    def __init__(
        self, listen: str, facts: Callable[[], vitals.Facts], metrics: Callable[[], bytes]
    ) -> None:
        address = addresses.parse(listen, field="http")
        try:
            self._server = _Server(address, facts, metrics)
        except OSError as error:
            cause = error.strerror or str(error)
            raise channels.ListenError(f"cannot listen on {listen}: {cause}") from error
        host, port = self._server.server_address[:2]
        self.address = addresses.Address(host=str(host), port=port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_SECONDS,), name="probes", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 2 * MAX_CONNECTIONS

    def __init__(
        self,
        address: addresses.Address,
        facts: Callable[[], vitals.Facts],
        metrics: Callable[[], bytes],
    ) -> None:
        self.facts = facts
        self.metrics = metrics
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        super().__init__((address.host, address.port), _Handler)

    def process_request(self, request: object, client_address: object) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)  # type: ignore[arg-type]  # as given
        else:
            self.shutdown_request(request)  # type: ignore[arg-type]  # as given

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: whoever broke the connection knows."""


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    server_version = "kubediffusion"
    sys_version = ""

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server), "made by it"
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(
                http.HTTPStatus.OK, self.server.metrics(), prometheus_client.CONTENT_TYPE_LATEST
            )
            return
        verdict = judge(path, self.server.facts(), time.monotonic())
        if verdict is None:
            self._answer_text(http.HTTPStatus.NOT_FOUND, "no such path")
        elif verdict.is_ok:
            self._answer_text(http.HTTPStatus.OK, verdict.reason)
        else:
            self._answer_text(http.HTTPStatus.SERVICE_UNAVAILABLE, verdict.reason)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # inherited
        """Say nothing: probes come every few seconds."""

    def _answer_text(self, status: http.HTTPStatus, text: str) -> None:
        self._answer(status, f"{text}\n".encode(), "text/plain; charset=utf-8")

    def _answer(self, status: http.HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def judge(path: str, facts: vitals.Facts, now: float) -> vitals.Verdict | None:
    """Answer a probe; None where there is none of that path."""
    if path == "/healthz/live":
        return vitals.is_live(facts, now)
    if path == "/healthz/ready":
        return vitals.is_ready(facts)
    if path == "/healthz/started":
        return vitals.is_started(facts)
    return None
