"""The documents: what they link to exists, and the programs in them run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY, Serve, linux_only, open_client, recv_exact, wait_until
from support.tls import Certificates, ConnectTls

import iocp_bind

DOCUMENTS = [
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "docs").rglob("*.md"),
    REPOSITORY / "bench" / "README.md",
]
GUIDE = REPOSITORY / "docs" / "using" / "guide.md"
MESSAGES = REPOSITORY / "docs" / "using" / "messages.md"
TLS = REPOSITORY / "docs" / "using" / "tls.md"


def _links(document: Path) -> list[str]:
    """Links to other files and sections of this repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8"))
    return [link for link in found if "://" not in link]


def _anchors(document: Path) -> set[str]:
    """The headings of a document, as links name them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_what_is_linked_exists(document: Path) -> None:
    for link in _links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


def test_the_programs_of_the_library_are_parts_of_the_examples() -> None:
    """The examples are built and run as tests of C++."""
    text = (REPOSITORY / "docs" / "using" / "cpp.md").read_text("utf-8")
    blocks = re.findall(r"```cpp\n(.*?)```", text, re.DOTALL)
    examples = [file.read_text("utf-8") for file in (REPOSITORY / "examples").glob("*.cpp")]
    assert blocks
    for block in blocks:
        assert any(block in example for example in examples), block


def _blocks(document: Path, language: str) -> list[str]:
    text = document.read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def _run(program: str, document: Path) -> tuple[dict[str, Any], list[type[iocp_bind.Server]]]:
    """Run it as a module; return its names, and the servers among them."""
    namespace: dict[str, Any] = {}
    exec(compile(program, document.name, "exec"), namespace)
    servers = [
        value
        for value in namespace.values()
        if isinstance(value, type) and issubclass(value, iocp_bind.Server)
    ]
    return namespace, servers


PROGRAMS = [
    pytest.param(document, program, id=f"{document.stem}-{number}")
    for document in (GUIDE, MESSAGES)
    for number, program in enumerate(_blocks(document, "python"))
]


@pytest.mark.parametrize(("document", "program"), PROGRAMS)
def test_the_servers_of_the_guides_can_be_started(
    serve: Serve, document: Path, program: str
) -> None:
    _, servers = _run(program, document)
    assert servers
    for server in servers:
        serve(server())


# ---- TLS.


@pytest.fixture
def files_of_tls(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Stand in a folder with the files that the page names."""
    monkeypatch.chdir(tmp_path)
    for name, source in zip(
        ("cert.pem", "key.pem", "ca.pem"), (*certificates.server, certificates.ca), strict=True
    ):
        (tmp_path / name).write_bytes(Path(source).read_bytes())
    return tmp_path


@pytest.mark.parametrize("number", range(len(_blocks(TLS, "python"))))
def test_the_servers_of_tls_serve(
    serve: Serve,
    certificates: Certificates,
    connect_tls: ConnectTls,
    files_of_tls: Path,
    number: int,
) -> None:
    namespace, servers = _run(_blocks(TLS, "python")[number], TLS)
    assert servers
    for kind in servers:
        server = serve(kind(), tls=namespace.get("tls"))
        if server.tls is None:
            raw = open_client(server)
            raw.sendall(b"STARTTLS\r\n")
            assert recv_exact(raw, 14) == b"220 go ahead\r\n"
            connect_tls(server, over=raw)
        else:
            connect_tls(server, certificates.context(pair=certificates.client))
        wait_until(lambda: server.stats().tls_handshakes == 1, "the handshake")  # noqa: B023
        wait_until(lambda: server.stats().established == 1, "the hook")  # noqa: B023
        if hasattr(server, "renew"):
            before = server.tls
            server.renew()
            assert server.tls not in (None, before)
        server.shutdown(0)  # after it no hook runs
        assert server.stats().hook_errors == 0


@linux_only
def test_the_commands_of_tls_work(certificates: Certificates, tmp_path: Path) -> None:
    making, hook = _blocks(TLS, "sh")
    subprocess.run(["bash", "-e", "-c", making], check=True, capture_output=True, cwd=tmp_path)
    iocp_bind.TLS(tmp_path / "cert.pem", tmp_path / "key.pem")
    called = tmp_path / "called"
    stub = tmp_path / "systemctl"
    stub.write_text(f'#!/bin/sh\necho "$@" > {called}\n')
    stub.chmod(0o755)
    script = tmp_path / "hook"
    script.write_text(hook)
    script.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([str(script)], check=True, env={**os.environ, "PATH": path})
    assert called.read_text() == "kill --signal=HUP gateway.service\n"
