import asyncio
import pathlib

import pytest
import trustme

import wire_server
from kubediffusion_proto.v1 import worker_pb2, worker_pb2_grpc
from kubediffusion_wire import channels, errors, handlers, status

WORKER = "workers.default.diffusion"
ENGINE = "engine.default.diffusion"


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self.path = folder / "authority.pem"
        folder.mkdir()
        self._authority.cert_pem.write_to_path(str(self.path))

    def issue(
        self, name: str, *, expected_name: str = "", authority: pathlib.Path | None = None
    ) -> channels.TlsFiles:
        """Writes a new certificate over the last one of a name."""
        certificate = self._authority.issue_cert(name)
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        (self._folder / f"{name}.pem").write_bytes(chain)
        certificate.private_key_pem.write_to_path(str(self._folder / f"{name}.key"))
        return channels.TlsFiles(
            certificate=self._folder / f"{name}.pem",
            key=self._folder / f"{name}.key",
            authority=authority or self.path,
            expected_name=expected_name,
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


async def get(address: str, tls: channels.TlsFiles | None) -> str:
    async with channels.open_channel(address, tls=tls) as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        with status.map_errors():
            response = await stub.GetWorker(worker_pb2.GetWorkerRequest())
        return response.worker.name


def serve_and_get(
    server: channels.TlsFiles | None,
    client: channels.TlsFiles | None,
    *,
    admit: handlers.Admission | None = None,
) -> str:
    async def scene() -> str:
        worker = wire_server.FakeWorker()
        async with wire_server.serving(worker, tls=server, admit=admit) as address:
            return await get(address, client)

    return asyncio.run(scene())


def test_two_ends_that_trust_each_other_talk(authority: Authority) -> None:
    name = serve_and_get(
        authority.issue(WORKER),
        authority.issue(ENGINE, expected_name=WORKER),
        admit=lambda context: channels.check_peer(context, ENGINE),
    )
    assert name == "fake"


def test_a_worker_of_another_name_is_not_trusted(authority: Authority) -> None:
    # The second is what gRPC said before 1.84.
    text = r"Hostname Verification Check failed|Peer name other is not in peer certificate"
    with pytest.raises(errors.UntrustedPeerError, match=text):
        serve_and_get(authority.issue(WORKER), authority.issue(ENGINE, expected_name="other"))


def test_a_worker_is_expected_to_carry_the_dialled_host(authority: Authority) -> None:
    with pytest.raises(errors.UntrustedPeerError):
        serve_and_get(authority.issue(WORKER), authority.issue(ENGINE))


def test_a_worker_of_a_strange_authority_is_not_trusted(
    authority: Authority, stranger: Authority
) -> None:
    with pytest.raises(errors.UntrustedPeerError, match="CERTIFICATE_VERIFY_FAILED"):
        serve_and_get(
            stranger.issue(WORKER, authority=authority.path),
            authority.issue(ENGINE, expected_name=WORKER),
        )


def test_an_engine_of_a_strange_authority_is_hung_up_on(
    authority: Authority, stranger: Authority
) -> None:
    with pytest.raises(errors.RetryElsewhereError, match="certificate is right"):
        serve_and_get(
            authority.issue(WORKER),
            stranger.issue(ENGINE, expected_name=WORKER, authority=authority.path),
        )


def test_an_engine_of_another_name_is_told_so(authority: Authority) -> None:
    with pytest.raises(errors.UntrustedPeerError, match="must carry the name 'someone'"):
        serve_and_get(
            authority.issue(WORKER),
            authority.issue(ENGINE, expected_name=WORKER),
            admit=lambda context: channels.check_peer(context, "someone"),
        )


def test_plaintext_to_a_worker_with_tls_is_hung_up_on(authority: Authority) -> None:
    with pytest.raises(errors.RetryElsewhereError, match="if the worker needs TLS"):
        serve_and_get(authority.issue(WORKER), None)


def test_tls_to_a_worker_without_is_told_so(authority: Authority) -> None:
    with pytest.raises(errors.UntrustedPeerError, match="WRONG_VERSION_NUMBER"):
        serve_and_get(None, authority.issue(ENGINE, expected_name=WORKER))


def test_a_missing_file_is_named(authority: Authority, tmp_path: pathlib.Path) -> None:
    tls = authority.issue(ENGINE, authority=tmp_path / "missing.pem")
    with pytest.raises(errors.UntrustedPeerError, match=r"missing.pem': No such file"):
        asyncio.run(get("127.0.0.1:1", tls))


def test_a_new_certificate_is_used_without_a_restart(
    authority: Authority, stranger: Authority
) -> None:
    client = authority.issue(ENGINE, expected_name=WORKER)

    async def scene() -> None:
        tls = authority.issue(WORKER)
        async with wire_server.serving(wire_server.FakeWorker(), tls=tls) as address:
            assert await get(address, client) == "fake"
            replacement = stranger.issue(WORKER)
            tls.certificate.write_bytes(replacement.certificate.read_bytes())
            tls.key.write_bytes(replacement.key.read_bytes())
            with pytest.raises(errors.UntrustedPeerError, match="CERTIFICATE_VERIFY_FAILED"):
                await get(address, client)
            authority.issue(WORKER)
            assert await get(address, client) == "fake"

    asyncio.run(scene())


def test_a_worker_keeps_its_certificate_while_the_files_are_broken(authority: Authority) -> None:
    client = authority.issue(ENGINE, expected_name=WORKER)

    async def scene() -> None:
        tls = authority.issue(WORKER)
        async with wire_server.serving(wire_server.FakeWorker(), tls=tls) as address:
            tls.certificate.unlink()
            assert await get(address, client) == "fake"
            tls.certificate.write_text("not yet written")
            assert await get(address, client) == "fake"

    asyncio.run(scene())
