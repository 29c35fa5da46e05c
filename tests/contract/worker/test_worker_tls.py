import asyncio
import pathlib

import pytest
import trustme

from kubediffusion_wire import channels, errors
from served import Process, a_process, connected

WORKER = "workers.default.diffusion"
ENGINE = "engine.default.diffusion"


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self.path = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.path))

    def issue(self, name: str, *, expected_name: str = "") -> channels.TlsFiles:
        certificate = self._authority.issue_cert(name)
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        (self._folder / f"{name}.pem").write_bytes(chain)
        certificate.private_key_pem.write_to_path(str(self._folder / f"{name}.key"))
        return channels.TlsFiles(
            certificate=self._folder / f"{name}.pem",
            key=self._folder / f"{name}.key",
            authority=self.path,
            expected_name=expected_name,
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def flags(files: channels.TlsFiles) -> list[str]:
    return [
        *("--tls-cert", str(files.certificate)),
        *("--tls-key", str(files.key)),
        *("--tls-ca", str(files.authority)),
    ]


async def generate(worker: Process, tls: channels.TlsFiles | None) -> None:
    async with connected(worker.address, tls=tls) as client:
        await client.worker()
        await client.serving()
        await client.submit("a")
        await client.result("a")


def test_a_worker_with_certificates_serves_those_who_have_one_too(authority: Authority) -> None:
    engine = authority.issue(ENGINE, expected_name=WORKER)
    with a_process(*flags(authority.issue(WORKER))) as worker:
        asyncio.run(generate(worker, engine))
        with pytest.raises(errors.RetryElsewhereError):
            asyncio.run(generate(worker, None))


def test_a_worker_can_ask_for_the_name_of_its_clients(authority: Authority) -> None:
    engine = authority.issue(ENGINE, expected_name=WORKER)
    stranger = authority.issue("stranger.default.diffusion", expected_name=WORKER)
    with a_process(*flags(authority.issue(WORKER)), "--tls-client-name", ENGINE) as worker:
        asyncio.run(generate(worker, engine))
        with pytest.raises(errors.UntrustedPeerError, match=ENGINE):
            asyncio.run(generate(worker, stranger))
