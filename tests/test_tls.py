"""TLS by certificate files: for one engine and several workers, read again when they change."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from conftest import serving_on
from wattstream.client.export import Exporter
from wattstream.client.overview import Observer
from wattstream.client.sender import Sender
from wattstream.domain.errors import OperatorError, SettingsError
from wattstream.domain.readings import Stream
from wattstream.settings import load
from wattstream.tls import Certificate

if shutil.which("openssl") is None:
    pytest.skip("openssl is not installed", allow_module_level=True)


def make(folder: Path, name: str = "own") -> tuple[Path, Path]:
    """Write a self-signed certificate for this machine, and its key; return their paths."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o600)
    return certificate, key


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make(tmp_path_factory.mktemp("tls"))


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


def flags(certificate: Path, key: Path) -> list[str]:
    return ["--tls-certificate", str(certificate), "--tls-key", str(key)]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_engine_answers_over_tls_and_reads_a_new_certificate(
    conninfo: str, tmp_path: Path, workers: str
) -> None:
    certificate, key = make(tmp_path)
    with serving_on(conninfo, *flags(certificate, key), "--workers", workers) as engine:
        assert engine.url.startswith("https://")
        with httpx.Client(verify=trusting(certificate), base_url=engine.url) as old:
            assert old.get("/v1/health").status_code == 200
            page = old.get("/", headers={"Accept": "text/html"})
            assert page.headers["Strict-Transport-Security"] == "max-age=31536000"
            new_certificate, new_key = make(tmp_path, "new")
            new_key.replace(key)
            new_certificate.replace(certificate)
            deadline = time.monotonic() + 20
            accepted = 0
            while accepted < 4:  # by every worker
                assert time.monotonic() < deadline
                try:
                    httpx.get(f"{engine.url}/v1/health", verify=trusting(certificate))
                    accepted += 1
                except httpx.ConnectError:
                    accepted = 0
                    time.sleep(0.2)
            assert old.get("/v1/health").status_code == 200, "an open connection lives on"


def test_who_does_not_shake_hands_holds_up_nobody(conninfo: str, files: tuple[Path, Path]) -> None:
    with serving_on(conninfo, *flags(*files), "--max-connections", "10") as engine:
        host, port = engine.url.removeprefix("https://").split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(5)]
        assert httpx.get(f"{engine.url}/v1/health", verify=trusting(files[0])).status_code == 200
        silent += [socket.create_connection((host, int(port))) for _ in range(9)]
        assert silent[-1].recv(1) == b"", "beyond the bound, closed at once"
        with pytest.raises(BlockingIOError):
            silent[0].recv(1, socket.MSG_DONTWAIT)
        for each in silent:
            each.close()


def test_older_tls_is_refused(conninfo: str, files: tuple[Path, Path]) -> None:
    context = trusting(files[0])
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with serving_on(conninfo, *flags(*files)) as engine:
        host, port = engine.url.removeprefix("https://").split(":")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection((host, int(port))) as connection,
            pytest.raises(OSError, match=r"SSL|alert|reset"),
        ):
            context.wrap_socket(connection, server_hostname="localhost")


def _missing(folder: Path, certificate: Path, key: Path) -> tuple[Path, Path]:
    return folder / "nowhere.pem", key


def _swapped(folder: Path, certificate: Path, key: Path) -> tuple[Path, Path]:
    return key, certificate


def _foreign(folder: Path, certificate: Path, key: Path) -> tuple[Path, Path]:
    return certificate, make(folder, "other")[1]


def _encrypted(folder: Path, certificate: Path, key: Path) -> tuple[Path, Path]:
    locked = folder / "locked.key"
    subprocess.run(
        ["openssl", "pkey", "-in", str(key), "-aes256", "-passout", "pass:secret",
         "-out", str(locked)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, locked


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_missing, "certificate cannot be read: .*nowhere.pem: No such file"),
        (_swapped, "not in PEM form"),
        (_foreign, "is not the key of the certificate"),
        (_encrypted, "is encrypted; give one without a password"),
    ],
)
def test_wrong_files_are_explained_at_the_start(
    tmp_path: Path, files: tuple[Path, Path], change: Callable[..., tuple[Path, Path]], words: str
) -> None:
    with pytest.raises(OperatorError, match=words):
        Certificate(*change(tmp_path, *files))


def test_wrong_files_later_leave_what_there_is(tmp_path: Path) -> None:
    certificate, key = make(tmp_path)
    held = Certificate(certificate, key)
    before = held.context
    key.write_text("nonsense")
    held.refresh()
    assert held.context is before
    make(tmp_path)
    held.refresh()
    assert held.context is not before


def test_a_key_that_everyone_can_read_is_warned_of(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = files
    key.chmod(0o644)
    Certificate(certificate, key)
    assert "chmod 600" in capsys.readouterr().out
    key.chmod(0o600)


def test_a_certificate_needs_a_key() -> None:
    with pytest.raises(SettingsError, match="WATTSTREAM_TLS_KEY is not set"):
        load({"tls_certificate": "own.pem"}, {})


def test_clients_trust_the_authority_that_a_variable_names(
    conninfo: str, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_on(conninfo, *flags(*files)) as engine:
        with pytest.raises(OperatorError, match=r"not trusted here.*SSL_CERT_FILE"):
            asyncio.run(_check(engine.url))
        with (
            closing(Observer(engine.url)) as observer,
            pytest.raises(OperatorError, match="not trusted here"),
        ):
            observer.look()
        monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
        asyncio.run(_check(engine.url))
        with closing(Observer(engine.url)) as observer, closing(Exporter(engine.url)) as exporter:
            observer.look()
            assert exporter.devices(Stream.METER) == []


async def _check(url: str) -> None:
    sender = Sender(url, connections=1, patience_s=0)
    try:
        await sender.check()
    finally:
        await sender.close()
