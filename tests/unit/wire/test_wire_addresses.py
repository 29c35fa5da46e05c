import hypothesis
import pytest
from hypothesis import strategies

from kubediffusion_wire import addresses, errors


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051),
        ("worker-0.diffusion.svc:1", "worker-0.diffusion.svc", 1),
        ("[::1]:65535", "::1", 65535),
        ("localhost:0", "localhost", 0),
    ],
)
def test_host_and_port_are_read(text: str, host: str, port: int) -> None:
    address = addresses.parse(text)
    assert (address.host, address.port, address.is_unix) == (host, port, False)
    assert str(address) == text


def test_a_unix_socket_is_read() -> None:
    address = addresses.parse("unix:/run/worker 1.sock")
    assert (address.path, address.is_unix) == ("/run/worker 1.sock", True)
    assert str(address) == "unix:/run/worker 1.sock"


def test_the_other_spelling_of_a_unix_socket_is_read() -> None:
    assert addresses.parse("unix:///run/w.sock").path == "/run/w.sock"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":50051",
        "host:65536",
        "host:-1",
        "host:+1",
        "host:5x",
        "host:٣",
        "host: 1",
        "http://host:1",
        "dns:///host:1",
        "::1:50051",
        "a,b:1",
        "user@host:1",
        "unix:",
        "unix:/a\0b",
        "unix:/" + "x" * 107,
        "host:" + "9" * 10_000,
    ],
)
def test_anything_else_is_refused_with_advice(text: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="must be an address; found") as caught:
        addresses.parse(text, field="workers[0]")
    assert caught.value.violations[0].field == "workers[0]"


@hypothesis.given(strategies.text())
def test_no_text_makes_it_raise_anything_else(text: str) -> None:
    try:
        address = addresses.parse(text)
    except errors.InvalidRequestError:
        return
    assert addresses.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "is_local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("10.0.0.1:1", False),
        ("[::]:1", False),
        ("localhost.example.com:1", False),
    ],
)
def test_only_loopback_and_unix_sockets_are_local(text: str, is_local: bool) -> None:
    assert addresses.parse(text).is_local is is_local
