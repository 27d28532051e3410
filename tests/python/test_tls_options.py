"""iocp_bind.TLS: what its constructor takes, reads and refuses."""

from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support import Echo, Logs, Recorder, Serve, ask, echo_back
from support.tls import Certificates, ConnectTls, names_of, tool

import iocp_bind
from iocp_bind import TLS


def test_files_may_be_paths_and_go_afterwards(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, tmp_path: Path
) -> None:
    both = tmp_path / "schlüssel und zertifikat.pem"
    pair = certificates.server
    both.write_text(Path(pair.cert).read_text() + Path(pair.key).read_text())
    tls = TLS(both)
    both.unlink()
    server = serve(Echo(), tls=tls)
    assert ask(connect_tls(server), b"x") == b"x"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a named pipe")
def test_files_are_read_without_the_gil(certificates: Certificates, tmp_path: Path) -> None:
    """This thread writes what the other one waits for in the constructor."""
    pipe = tmp_path / "pipe.pem"
    os.mkfifo(pipe)
    made: list[TLS] = []
    thread = threading.Thread(target=lambda: made.append(TLS(pipe, certificates.server.key)))
    thread.start()
    pipe.write_text(Path(certificates.server.cert).read_text())
    thread.join()
    assert len(made) == 1


def _encrypted(certificates: Certificates, folder: Path) -> str:
    path = folder / "encrypted.pem"
    command = [tool("openssl"), "pkey", "-in", certificates.server.key, "-aes256"]
    command += ["-passout", "pass:secret", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return str(path)


def test_a_key_may_be_encrypted(certificates: Certificates, tmp_path: Path) -> None:
    cert, key = certificates.server.cert, _encrypted(certificates, tmp_path)
    TLS(cert, key, "secret")
    TLS(cert, key, b"secret")
    named = re.escape(f"keyfile '{key}'")
    with pytest.raises(ValueError, match=f"{named} holds an encrypted key: give its pass"):
        TLS(cert, key)
    with pytest.raises(ValueError, match=f"{named} .* that the password does not open"):
        TLS(cert, key, "guess")


@pytest.mark.parametrize("option", ["certfile", "keyfile", "ca"])
def test_a_file_that_cannot_be_read(
    certificates: Certificates, tmp_path: Path, option: str
) -> None:
    pair = certificates.server
    files: dict[str, Any] = {"certfile": pair.cert, "keyfile": pair.key}
    missing = str(tmp_path / "certificate_file of nobody.pem")
    with pytest.raises(FileNotFoundError, match=f"{option} cannot be read") as caught:
        TLS(**files | {option: missing})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, missing)
    with pytest.raises(OSError, match=f"{option} cannot be read") as caught_too:
        TLS(**files | {option: tmp_path})
    assert caught_too.value.filename == str(tmp_path)
    nonsense = tmp_path / "key_file.pem"
    nonsense.write_text("nonsense\n")
    with pytest.raises(ValueError, match=re.escape(f"{option} '{nonsense}' holds no")):
        TLS(**files | {option: nonsense})


def test_a_certificate_that_is_damaged(certificates: Certificates, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pem"
    text = Path(certificates.server.cert).read_text().splitlines()
    damaged.write_text("\n".join([text[0], text[1][::-1], *text[2:]]))
    sentence = f"certfile '{damaged}' holds a certificate that cannot"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        TLS(damaged, certificates.server.key)


def test_a_key_of_another_certificate(certificates: Certificates) -> None:
    cert, key = certificates.server.cert, certificates.client.key
    sentence = f"the key in '{key}' is not that of the certificate in '{cert}'"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        TLS(cert, key)


WRONG_TYPES: dict[str, list[Any]] = {
    "certfile": [None, 5, b"cert.pem"],
    "keyfile": [5, b"key.pem"],
    "password": [5],
    "ca": [True],
    "verify": [None, True],
    "alpn": ["h2", b"h2", [b"h2"], 5],
    "min_version": [1.2, None],
    "max_version": [1.3],
    "ciphers": [["a"]],
    "sni": ["localhost", {b"localhost": None}, {"localhost": "cert.pem"}],
    "session_tickets": [1, None],
    "ticket_keys": [b"k" * 48, ["k" * 48]],
    "handshake_timeout": [None, "10", True],
    "allow_truncation": [1],
}
WRONG_VALUES: dict[str, list[Any]] = {
    "certfile": ["", "a\0b"],
    "verify": ["always"],
    "alpn": [[""], ["a" * 256]],
    "min_version": ["1.1", "TLSv1.3"],
    "max_version": ["1.4"],
    "ciphers": ["NO-SUCH-CIPHER", "TLS_NO_SUCH"],
    "ticket_keys": [[b"k" * 47]],
    "handshake_timeout": [0, -1, float("nan"), float("inf")],
}


def _cases(table: dict[str, list[Any]]) -> pytest.MarkDecorator:
    cases = [(option, value) for option, values in table.items() for value in values]
    return pytest.mark.parametrize(("option", "value"), cases)


@_cases(WRONG_TYPES)
def test_a_wrong_type_is_refused(certificates: Certificates, option: str, value: object) -> None:
    files: dict[str, Any] = {"certfile": certificates.server.cert, "ca": certificates.ca}
    with pytest.raises(TypeError, match=option):
        TLS(**files | {"keyfile": certificates.server.key} | {option: value})


@_cases(WRONG_VALUES)
def test_a_wrong_value_is_refused(certificates: Certificates, option: str, value: object) -> None:
    files: dict[str, Any] = {"certfile": certificates.server.cert}
    with pytest.raises(ValueError, match=option):
        TLS(**files | {"keyfile": certificates.server.key} | {option: value})


def test_options_that_do_not_fit_each_other(certificates: Certificates) -> None:
    pair = certificates.server
    with pytest.raises(ValueError, match="verify needs ca: the authorities"):
        TLS(*pair, verify="required")
    with pytest.raises(ValueError, match="ca needs verify, which is 'required' or 'optional'"):
        TLS(*pair, ca=certificates.ca)
    with pytest.raises(ValueError, match="max_version must not be older than min_version"):
        TLS(*pair, min_version="1.3", max_version="1.2")
    with pytest.raises(ValueError, match="ticket_keys need session_tickets"):
        TLS(*pair, session_tickets=False, ticket_keys=[b"k" * 80])
    with pytest.raises(ValueError, match="sni: '' is no host name"):
        TLS(*pair, sni={"": certificates.tls()})
    with pytest.raises(ValueError, match=r"sni: '127\.0\.0\.1' is an address"):
        TLS(*pair, sni={"127.0.0.1": certificates.tls()})
    with pytest.raises(ValueError, match=r"sni\['a.example'\] must be the TLS of a server"):
        TLS(*pair, sni={"a.example": TLS.client(ca=certificates.ca)})


@pytest.mark.parametrize("option", ["certfile", "keyfile", "ca"])
def test_the_text_of_a_file_is_not_in_the_error(certificates: Certificates, option: str) -> None:
    pair = certificates.server
    text = Path(pair.key).read_text()
    with pytest.raises(ValueError, match=f"{option} is the name of a file") as caught:
        TLS(**{"certfile": pair.cert, "keyfile": pair.key, option: text})  # type: ignore[arg-type]
    assert "BEGIN" not in str(caught.value)
    assert text.splitlines()[1] not in str(caught.value)


def test_the_log_warns_of_a_certificate_that_has_expired(
    certificates: Certificates, logs: Logs
) -> None:
    TLS(*certificates.server)
    assert logs.records == []
    cert, key = certificates.expired
    TLS(cert, key)
    (record,) = logs.expect()
    assert (record.name, record.levelname) == ("iocp_bind.tls", "WARNING")
    assert record.getMessage().startswith(f"the certificate in '{cert}' has expired: it was valid")


def test_a_value_of_the_wrong_type_gets_the_values_that_there_are(
    certificates: Certificates,
) -> None:
    pair = certificates.server
    with pytest.raises(TypeError, match="verify must be 'none' or 'optional' or 'required', not b"):
        TLS(*pair, ca=certificates.ca, verify=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"min_version must be '1.2' or '1.3', not float"):
        TLS(*pair, min_version=1.2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"alpn must be a list \(or .*\) of str, not str"):
        TLS(*pair, alpn="h2")


def test_it_does_not_change_and_is_not_copied(certificates: Certificates) -> None:
    tls = certificates.tls(password="secret")
    assert repr(tls) == f"iocp_bind.TLS({certificates.server.cert!r})"
    with pytest.raises(AttributeError, match="cannot be changed"):
        tls.verify = "none"
    with pytest.raises(AttributeError, match="cannot be changed"):
        del tls._native
    with pytest.raises(AttributeError, match="cannot be changed"):
        tls.__init__(*certificates.client)
    assert copy.copy(tls) is tls
    assert copy.deepcopy(tls) is tls
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(tls)


def test_a_client_is_checked_too(certificates: Certificates) -> None:
    client = TLS.client(ca=certificates.ca, server_name="localhost", alpn=["h2"])
    assert repr(client) == "iocp_bind.TLS.client(server_name='localhost')"
    TLS.client()  # the system's authorities
    with pytest.raises(FileNotFoundError):
        TLS.client(ca="/nowhere/ca.pem")
    with pytest.raises(ValueError, match="keyfile needs certfile"):
        TLS.client(keyfile=certificates.client.key)
    with pytest.raises(ValueError, match="server_name"):
        TLS.client(server_name="a" * 256)
    with pytest.raises(TypeError, match="server_name"):
        TLS.client(server_name=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="verify"):
        TLS.client(verify="none")  # type: ignore[arg-type]


# ---- Host names.


def test_the_certificate_is_chosen_by_the_host_name(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    sni = {
        "a.example": certificates.tls("a.example"),
        "*.b.example": certificates.tls("*.b.example"),
    }
    server = serve(Recorder(read=echo_back), tls=certificates.tls(sni=sni))
    for asked, shown in (
        ("a.example", "a.example"),
        ("A.Example", "a.example"),
        ("one.b.example", "*.b.example"),
        ("localhost", "localhost"),
    ):
        client = connect_tls(server, name=asked)
        assert names_of(client) == {shown}
        assert ask(client, b"x") == b"x"
    names = [conn.tls.server_name for conn in server.connections() if conn.tls is not None]
    assert sorted(map(str, names)) == ["a.example", "a.example", "localhost", "one.b.example"]
    context = certificates.context()
    context.check_hostname = False
    for asked in ("b.example", "two.one.b.example"):
        assert names_of(connect_tls(server, context, name=asked)) == {"localhost"}


# ---- It frees what it has.


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_it_is_freed(certificates: Certificates) -> None:
    from support import resident_bytes

    for _ in range(20):
        certificates.tls()
    gc.collect()
    before = resident_bytes()
    for _ in range(400):
        certificates.tls()
    # One has about 24 KiB.
    assert resident_bytes() - before < 3 * 1024 * 1024


# ---- The library.


def test_the_library_says_what_it_is(certificates: Certificates) -> None:
    library = iocp_bind.tls_library()
    assert library.available
    assert library.version.startswith("OpenSSL 3.")
    assert library.reason == ""


@pytest.mark.skipif("iocp_bind.tls_library().available", reason="this build has TLS")
def test_a_build_without_tls_says_why() -> None:
    library = iocp_bind.tls_library()
    assert library.version == ""
    assert library.reason
    with pytest.raises(RuntimeError, match="this build of iocp_bind has no TLS") as caught:
        TLS("cert.pem")
    assert library.reason in str(caught.value)
    with pytest.raises(RuntimeError, match="this build of iocp_bind has no TLS"):
        TLS.client()
