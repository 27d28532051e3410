"""TLS: what a server shows to its clients, and whom it trusts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, final

from iocp_bind import _core
from iocp_bind._log import tls_logger

if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import Self

# The names of options in the sentences of C++, and here.
_NAMES = {"certificate_file": "certfile", "key_file": "keyfile", "ca_file": "ca"}


@dataclass(frozen=True)
class TLSInfo:
    """The result of a handshake: `Connection.tls`."""

    version: str
    """``"TLSv1.3"`` or ``"TLSv1.2"``."""
    cipher: str
    """The suite, as OpenSSL names it: ``"TLS_AES_256_GCM_SHA384"``."""
    alpn: str | None
    """The protocol that was chosen; None: none was."""
    server_name: str | None
    """The host name that the client has asked for; None: it has asked for none."""
    peer_certificate: bytes | None
    """The client's certificate in DER; None: it has shown none."""
    resumed: bool
    """True exactly when an earlier session of the client was resumed."""


@dataclass(frozen=True)
class TLSLibrary:
    """The library that does the cryptography."""

    available: bool
    """True exactly when this build has TLS."""
    version: str
    """As the library names itself; empty when it is not available."""
    reason: str
    """Why there is no TLS, and what to do; empty when there is."""


def tls_library() -> TLSLibrary:
    """Return whether this build has TLS, and with which library."""
    return TLSLibrary(*_core._tls_library())


def _wrong_type(name: str, wanted: str, value: object) -> NoReturn:
    raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


def _file(name: str, value: object) -> bytes:
    """Return the name of a file as C++ takes it; empty for None."""
    if value is None:
        return b""
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str):
        _wrong_type(name, "a str or a path", value)
    if not path or "\0" in path:
        raise ValueError(f"{name} must be the name of a file, not {path!r}")
    return os.fsencode(path)


def _secret(name: str, value: object) -> bytes:
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        _wrong_type(name, "a str or bytes", value)
    return value


def _text(name: str, value: object) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, str):
        _wrong_type(name, "a str", value)
    return value.encode()


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        _wrong_type(name, "a bool", value)
    return value


def _seconds(value: object) -> object:
    """Refuse None, which is no timeout elsewhere; C++ looks at everything else."""
    if value is None:
        _wrong_type("handshake_timeout", "a number of seconds", value)
    return value


def _choice(name: str, value: object, *choices: str) -> str:
    wanted = " or ".join(map(repr, choices))
    if not isinstance(value, str):
        _wrong_type(name, wanted, value)
    if value not in choices:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    return value


def _list(name: str, kind: type[str | bytes], values: object) -> list[bytes]:
    """Return `values` as bytes; all of them must be of the type `kind`."""
    wanted = f"a list (or another iterable) of {kind.__name__}"
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        _wrong_type(name, wanted, values)
    found = []
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {wanted}, and has a {type(value).__name__}")
        found.append(value.encode() if isinstance(value, str) else bytes(value))
    return found


def _natives(sni: object) -> dict[bytes, _core.NativeTLS]:
    if sni is None:
        return {}
    if not isinstance(sni, Mapping):
        _wrong_type("sni", "a mapping of host names to iocp_bind.TLS objects", sni)
    found = {}
    for name, tls in sni.items():
        if not isinstance(name, str):
            _wrong_type("a host name of sni", "a str", name)
        if not isinstance(tls, TLS):
            _wrong_type(f"sni[{name!r}]", "an iocp_bind.TLS", tls)
        if tls._is_client:
            raise ValueError(f"sni[{name!r}] must be the TLS of a server, not TLS.client()")
        found[name.encode()] = tls._native
    return found


def _raise(fault: _core._TLSFault, files: Iterable[bytes]) -> NoReturn:
    """Raise the exception for a sentence of C++, with the names of the options here."""
    sentence, code = fault.args
    # The names of files stay as they are.
    known = ["'" + re.escape(os.fsdecode(file)) + "'" for file in files if file]
    pattern = "|".join([*known, *_NAMES])
    sentence = re.sub(pattern, lambda found: _NAMES.get(found[0], found[0]), sentence)
    if not code:
        available, _, reason = _core._tls_library()
        if not available:
            raise RuntimeError(f"this build of iocp_bind has no TLS: {reason}") from None
        raise ValueError(sentence) from None
    option, _, rest = sentence.partition(" '")
    path = rest.rpartition("' cannot be read")[0]
    raise OSError(code, f"{option} cannot be read: {os.strerror(code)}", path) from None


@final
class TLS:
    """TLS of a server: its certificate, and what it asks of its clients.

    `Server.start` takes it as the option `tls`, `Server.tls` gives another one to new clients, and
    `Connection.start_tls` begins it later. Handshakes and records run on the server's workers,
    without the GIL. All files are read here, so they may change or go afterwards; to renew a
    certificate, make another one. Immutable; any number of servers and threads share one. A
    certificate that has expired, or is not valid yet, is taken, and the log warns of it.

    Args:
        certfile: a file in PEM format with the server's certificate, and behind it those that
            lead to an authority which clients know.
        keyfile: its private key, in PEM format; None: it is in `certfile`.
        password: of the key, if it is encrypted.
        ca: a file with the certificates of the authorities that clients' certificates may come
            from. `verify` needs it, and it needs `verify`.
        verify: whether clients are asked for a certificate. ``"optional"``: a client may come
            without one, but not with one that is not trusted. ``"required"``: a client without a
            trusted one is refused.
        alpn: names of protocols, such as ``["h2", "http/1.1"]``, the best one first. A client that
            offers only other names is refused.
        min_version: the oldest version that is spoken.
        max_version: the newest one; None: the newest that OpenSSL has.
        ciphers: a list in OpenSSL's form, with colons between. Names that begin with ``TLS_`` are
            suites of TLS 1.3; everything else is for TLS 1.2. None: those with forward secrecy and
            authenticated encryption.
        sni: other `TLS` objects by host name, for clients that ask for that name.
            ``"*.example.org"`` stands for each name with one more label. The `handshake_timeout`,
            `allow_truncation` and `sni` of those others have no effect.
        session_tickets: whether clients may resume a session, on whichever worker. It saves most
            of the handshake.
        ticket_keys: ticket keys, of 48 or 80 random bytes each. The first encrypts, all decrypt.
            Processes with the same keys and certificate resume each other's sessions. None: keys of
            its own, with a new one each hour.
        handshake_timeout: seconds that a client may take for its handshake.
        allow_truncation: whether a stream that ends without the end of TLS (close_notify) is an
            orderly end. Somebody on the way can cut such a stream off, and nobody notices.

    Raises:
        OSError: a file cannot be read; `filename` is its name.
        ValueError: a file holds something else, or an option is out of its range. The message
            names the file or the option.
        TypeError: an option is of the wrong kind.
        RuntimeError: this build has no TLS; the message says why.
        MemoryError: memory ran out.
    """

    __slots__ = ("__weakref__", "_is_client", "_native", "_shown")

    _is_client: bool
    _native: _core.NativeTLS
    _shown: str

    def __init__(
        self,
        certfile: str | os.PathLike[str],
        keyfile: str | os.PathLike[str] | None = None,
        password: str | bytes | None = None,
        *,
        ca: str | os.PathLike[str] | None = None,
        verify: Literal["none", "optional", "required"] = "none",
        alpn: Iterable[str] = (),
        min_version: Literal["1.2", "1.3"] = "1.2",
        max_version: Literal["1.2", "1.3"] | None = None,
        ciphers: str | None = None,
        sni: Mapping[str, TLS] | None = None,
        session_tickets: bool = True,
        ticket_keys: Iterable[bytes] | None = None,
        handshake_timeout: float = 10.0,
        allow_truncation: bool = False,
    ) -> None:
        """Read the files, and check everything."""
        if certfile is None:
            _wrong_type("certfile", "a str or a path", certfile)
        options = {
            **_common(certfile, keyfile, password, ca, alpn, min_version, max_version, ciphers),
            "verify": _choice("verify", verify, "none", "optional", "required"),
            "sni": _natives(sni),
            "session_tickets": _truth("session_tickets", session_tickets),
            "ticket_keys": [] if ticket_keys is None else _list("ticket_keys", bytes, ticket_keys),
            "handshake_timeout": _seconds(handshake_timeout),
            "allow_truncation": _truth("allow_truncation", allow_truncation),
        }
        self._make(options, f"TLS({os.fspath(certfile)!r})", is_client=False)

    @classmethod
    def client(
        cls,
        *,
        ca: str | os.PathLike[str] | None = None,
        server_name: str | None = None,
        certfile: str | os.PathLike[str] | None = None,
        keyfile: str | os.PathLike[str] | None = None,
        password: str | bytes | None = None,
        alpn: Iterable[str] = (),
        verify: bool = True,
        min_version: Literal["1.2", "1.3"] = "1.2",
        max_version: Literal["1.2", "1.3"] | None = None,
        ciphers: str | None = None,
        handshake_timeout: float = 10.0,
        allow_truncation: bool = False,
    ) -> Self:
        """Make the TLS of a client, for `Connection.start_tls`.

        Args:
            ca: a file with the certificates of the authorities that the server's may come from;
                None: those of the system.
            server_name: the host name or address that the server's certificate must be for. A host
                name is also sent to the server. Needed to verify: without it
                `Connection.start_tls` raises a ValueError.
            certfile: the client's own certificate, for a server that asks for one.
            keyfile: as for `TLS`.
            password: as for `TLS`.
            alpn: names of protocols, the one that the client likes best first.
            verify: whether the server's certificate is checked: that it comes from one of the
                authorities, that it is valid now, and that it is for `server_name`.
            min_version: as for `TLS`.
            max_version: as for `TLS`.
            ciphers: as for `TLS`.
            handshake_timeout: as for `TLS`.
            allow_truncation: as for `TLS`.

        Raises:
            Exception: as `TLS` raises it.
        """
        options = {
            **_common(certfile, keyfile, password, ca, alpn, min_version, max_version, ciphers),
            "verify": _truth("verify", verify),
            "server_name": _text("server_name", server_name),
            "handshake_timeout": _seconds(handshake_timeout),
            "allow_truncation": _truth("allow_truncation", allow_truncation),
        }
        self = cls.__new__(cls)
        shown = "" if server_name is None else f"server_name={server_name!r}"
        self._make(options, f"TLS.client({shown})", is_client=True)
        return self

    def _make(self, options: dict[str, Any], shown: str, *, is_client: bool) -> None:
        if hasattr(self, "_native"):
            raise AttributeError("a TLS cannot be changed: __init__ must not be called again")
        make = _core._tls_client if is_client else _core._tls_server
        try:
            native = make(options)
        except _core._TLSFault as fault:
            _raise(fault, [options[name] for name in ("certfile", "keyfile", "ca")])
        for name, value in (("_native", native), ("_shown", shown), ("_is_client", is_client)):
            object.__setattr__(self, name, value)
        if warning := native.certificate_warning():
            tls_logger.warning("%s", warning)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a TLS cannot be changed: make another one to set {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a TLS cannot be changed: {name} stays")

    def __repr__(self) -> str:
        """Return what it is for; nothing that is secret."""
        return f"iocp_bind.{self._shown}"

    def __copy__(self) -> TLS:
        """Return itself: it does not change."""
        return self

    def __deepcopy__(self, memo: object) -> TLS:
        """Return itself: it does not change."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse: it holds a private key."""
        raise TypeError("a TLS holds a private key, and cannot be pickled: make it from its files")


def _common(
    certfile: object,
    keyfile: object,
    password: object,
    ca: object,
    alpn: object,
    min_version: object,
    max_version: object,
    ciphers: object,
) -> dict[str, object]:
    newest = None if max_version is None else _choice("max_version", max_version, "1.2", "1.3")
    return {
        "certfile": _file("certfile", certfile),
        "keyfile": _file("keyfile", keyfile),
        "password": _secret("password", password),
        "ca": _file("ca", ca),
        "alpn": _list("alpn", str, alpn),
        "min_version": _choice("min_version", min_version, "1.2", "1.3"),
        "max_version": newest,
        "ciphers": _text("ciphers", ciphers),
    }
