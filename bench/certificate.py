"""The certificate of the servers with TLS: for the P-256 curve, made anew for each run."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def certificate() -> Iterator[Path]:
    """A PEM file with a certificate that signs itself, and its key; it is deleted on leaving.

    ValueError when OpenSSL's program is missing or fails.
    """
    with tempfile.TemporaryDirectory(prefix="iocp-bench-") as folder:
        key, chain, both = (Path(folder) / name for name in ("key.pem", "chain.pem", "both.pem"))
        command = (
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-keyout", str(key), "-out", str(chain)),
        )
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        except OSError as error:
            raise ValueError(f"a certificate for TLS needs the program openssl: {error}") from error
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip()
            raise ValueError(f"openssl made no certificate: {reason}") from error
        both.write_bytes(chain.read_bytes() + key.read_bytes())
        yield both
