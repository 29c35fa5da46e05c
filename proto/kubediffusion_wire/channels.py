"""Channels and listeners: their options, TLS, Unix sockets, and the rules for plaintext.

gRPC ignores options with unknown names, so every one here has a test of its effect.
"""

import contextlib
import os
import pathlib
import socket
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from kubediffusion_wire import addresses, errors

MAX_MESSAGE_BYTES = 8_000_000
"""Bytes of one message, at most, both ways; bulk data travels in chunks of 1 MB."""

Options = tuple[tuple[str, int | str], ...]

_LIMITS: Options = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

CLIENT_OPTIONS: Options = (
    *_LIMITS,
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # keepalive_timeout_ms only sets TCP_USER_TIMEOUT; this one notices a silent peer.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # Not a pause but the time that one attempt to connect may take: less would give up on
    # peers that are far away or busy.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A proxy of the environment is for the internet, not for pods and loopback.
    ("grpc.enable_http_proxy", 0),
)
"""Of the channel for calls and events."""

BULK_OPTIONS: Options = (
    *CLIENT_OPTIONS,
    # A connection of its own, so that bulk data does not delay events.
    ("grpc.use_local_subchannel_pool", 1),
)
"""Of the channels for results and checkpoints."""

READING_OPTIONS: Options = (
    *BULK_OPTIONS,
    # The thread that reads also waits for the network; otherwise gRPC hands each message over
    # from a thread of its own.
    ("SingleThreadedUnaryStream", 1),
)
"""Of the channel that threads read bulk data from."""

SERVER_OPTIONS: Options = (
    *_LIMITS,
    # Without `recv` in the name, whatever the documents of gRPC say. Clients ping every 10 s.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Frees the watches of clients that died in silence.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    # Two workers must not share a port by accident.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 256),
)
"""Of a worker's server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The files of one end of mutual TLS, PEM, and whom to expect at the other end."""

    certificate: pathlib.Path
    """The chain of this end."""
    key: pathlib.Path
    authority: pathlib.Path
    """The certificates that the other end's chain must lead to."""
    expected_name: str = ""
    """The DNS name in the other end's certificate; empty: the dialled host, for clients, and
    anybody whom the authority has signed, for servers."""

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Returns certificate, key and authority.

        Raises:
            errors.UntrustedPeerError: A file cannot be read.
        """
        try:
            return (
                self.certificate.read_bytes(),
                self.key.read_bytes(),
                self.authority.read_bytes(),
            )
        except OSError as error:
            raise errors.UntrustedPeerError(
                f"cannot read the TLS file {error.filename!r}: {error.strerror}"
            ) from error


class ListenError(OSError):
    """Is raised when a server cannot listen on an address; the text says why."""


def open_channel(
    address: str, *, tls: TlsFiles | None = None, bulk: bool = False, insecure: bool = False
) -> grpc.aio.Channel:
    """Opens a channel to a worker; call it on the event loop that will use it.

    Connecting happens later, so that a worker that is down shows on the first call.

    Args:
        address: `host:port` or `unix:/path`.
        tls: Mutual TLS; never used on a Unix socket, which its mode protects.
        bulk: A connection of its own, for results and checkpoints.
        insecure: Allows plaintext to another machine.

    Raises:
        errors.InvalidRequestError: No such address, or plaintext that is not allowed.
        errors.UntrustedPeerError: A TLS file cannot be read.
    """
    options = BULK_OPTIONS if bulk else CLIENT_OPTIONS
    dial = _dial(address, tls, options, insecure=insecure)
    if dial.credentials is None:
        return grpc.aio.insecure_channel(dial.target, options=dial.options)
    return grpc.aio.secure_channel(dial.target, dial.credentials, options=dial.options)


def open_reading_channel(
    address: str, *, tls: TlsFiles | None = None, insecure: bool = False
) -> grpc.Channel:
    """Opens a channel for threads that read bulk data; see `open_channel`.

    Raises:
        errors.InvalidRequestError: No such address, or plaintext that is not allowed.
        errors.UntrustedPeerError: A TLS file cannot be read.
    """
    dial = _dial(address, tls, READING_OPTIONS, insecure=insecure)
    if dial.credentials is None:
        return grpc.insecure_channel(dial.target, options=dial.options)
    return grpc.secure_channel(dial.target, dial.credentials, options=dial.options)


def add_listener(
    server: grpc.aio.Server,
    address: str,
    *,
    tls: TlsFiles | None = None,
    insecure: bool = False,
) -> addresses.Address:
    """Makes a server listen, before it starts; returns the address with the real port.

    A Unix socket gets mode 0600, and a stale one is replaced. Server certificates are read
    again when their files change.

    Raises:
        errors.InvalidRequestError: No such address, or plaintext that is not allowed.
        errors.UntrustedPeerError: A TLS file cannot be read.
        ListenError: The address is in use or not of this machine.
    """
    target = addresses.parse(address)
    if target.is_unix:
        _clear_stale_socket(target)
        with _private_umask():
            _bind(server, target, None)
        return target
    if tls is None:
        _check_plaintext(target, insecure=insecure)
    credentials = None if tls is None else _server_credentials(tls)
    port = _bind(server, target, credentials)
    return addresses.Address(host=target.host, port=port)


def check_peer(context: grpc.aio.ServicerContext[Any, Any], expected_name: str) -> None:
    """Refuses a client whose certificate does not carry the expected name.

    Raises:
        errors.UntrustedPeerError: It does not, or there is no certificate.
    """
    names = context.auth_context().get("x509_subject_alternative_name", [])
    if expected_name.encode() not in names:
        raise errors.UntrustedPeerError(
            f"the client's certificate must carry the name {expected_name!r}; found {names}"
        )


@dataclass(frozen=True, slots=True)
class _Dial:
    target: str
    options: list[tuple[str, int | str]]
    credentials: grpc.ChannelCredentials | None


def _dial(address: str, tls: TlsFiles | None, options: Options, *, insecure: bool) -> _Dial:
    target = addresses.parse(address)
    if tls is None or target.is_unix:
        _check_plaintext(target, insecure=insecure)
        return _Dial(str(target), list(options), None)
    certificate, key, authority = tls.read()
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    named = [("grpc.ssl_target_name_override", tls.expected_name)] if tls.expected_name else []
    return _Dial(str(target), [*options, *named], credentials)


def _check_plaintext(target: addresses.Address, *, insecure: bool) -> None:
    if target.is_local or insecure:
        return
    raise errors.InvalidRequestError.at(
        "address",
        f"must be a Unix socket or loopback without TLS; found {str(target)!r}; give TLS files, "
        "or allow plaintext explicitly (insecure)",
    )


def _server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    seen = _Certificates(tls)
    return grpc.dynamic_ssl_server_credentials(
        seen.configuration(),
        seen.changed,  # type: ignore[arg-type]  # None means unchanged; the stubs forgot it
        require_client_authentication=True,
    )


class _Certificates:
    """Reads TLS files again when they have changed; called by gRPC for each connection."""

    def __init__(self, tls: TlsFiles) -> None:
        self._tls = tls
        self._content = tls.read()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, authority = self._content
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        # While files are being replaced the old ones stay good.
        with contextlib.suppress(errors.UntrustedPeerError):
            content = self._tls.read()
            if content != self._content:
                self._content = content
                return self.configuration()
        return None


def _bind(
    server: grpc.aio.Server,
    target: addresses.Address,
    credentials: grpc.ServerCredentials | None,
) -> int:
    try:
        if credentials is None:
            port = server.add_insecure_port(str(target))
        else:
            port = server.add_secure_port(str(target), credentials)
    except RuntimeError as error:
        raise _cannot_listen(target, "in use, or not an address of this machine") from error
    if port == 0:
        raise _cannot_listen(target, "in use, or not an address of this machine")
    return port


def _clear_stale_socket(target: addresses.Address) -> None:
    """Removes the socket of a dead process; gRPC itself would remove that of a live one too."""
    path = pathlib.Path(target.path)
    if not path.parent.is_dir():
        raise _cannot_listen(target, "its folder does not exist")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise _cannot_listen(target, "a file that is no socket is in its place")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(target.path)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            raise _cannot_listen(target, error.strerror or str(error)) from error
    raise _cannot_listen(target, "another process listens there")


_umask_lock = threading.Lock()


@contextlib.contextmanager
def _private_umask() -> Iterator[None]:
    # The umask is of the whole process; nothing else is done while it is changed.
    with _umask_lock:
        previous = os.umask(0o177)
        try:
            yield
        finally:
            os.umask(previous)


def _cannot_listen(target: addresses.Address, cause: str) -> ListenError:
    return ListenError(f"cannot listen on {target}: {cause}")
