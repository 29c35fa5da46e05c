"""Addresses of workers as people write them: `host:port` and `unix:/path`."""

import ipaddress
from dataclasses import dataclass

from kubediffusion_wire import errors

MAX_UNIX_PATH = 107
"""Bytes of the path of a Unix socket, at most (Linux, unix(7))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a worker listens: a Unix socket if it has a path, else TCP."""

    host: str = ""
    port: int = 0
    """0 stands for any free port, when listening."""
    path: str = ""

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_unix(self) -> bool:
        """True for a Unix socket."""
        return bool(self.path)

    @property
    def is_local(self) -> bool:
        """True where bytes cannot leave the machine: Unix sockets and loopback."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse(text: str, *, field: str = "address") -> Address:
    """Reads `host:port`, `[v6]:port` or `unix:/path`.

    Raises:
        errors.InvalidRequestError: It is none of them.
    """
    if text.startswith("unix:"):
        return _parse_unix(text, field)
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _invalid(field, text, "an IPv6 address stands in brackets: [::1]:50051")
    if not colon or not host or any(c.isspace() or c in "/@,?#%" for c in host):
        raise _invalid(field, text, "write host:port or unix:/path")
    if not (port.isascii() and port.isdigit() and int(port[:6]) <= 65535 and len(port) <= 5):
        raise _invalid(field, text, "a port is a number from 0 to 65535")
    return Address(host=host, port=int(port))


def _parse_unix(text: str, field: str) -> Address:
    path = text.removeprefix("unix:")
    if path.startswith("//"):
        # gRPC's other spelling, unix:///absolute/path.
        path = path[2:]
    if not path or "\0" in path:
        raise _invalid(field, text, "a Unix socket needs a path: unix:/run/worker.sock")
    if len(path.encode(errors="surrogateescape")) > MAX_UNIX_PATH:
        raise _invalid(field, text, f"a socket's path has at most {MAX_UNIX_PATH} bytes")
    return Address(path=path)


def _invalid(field: str, text: str, advice: str) -> errors.InvalidRequestError:
    return errors.InvalidRequestError.at(
        field, f"must be an address; found {text[:200]!r}; {advice}"
    )
