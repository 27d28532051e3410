"""Certificates for tests, as files that trustme makes.

Where trustme does not run, they are made beforehand, elsewhere:

    certificates.py FOLDER

and IOCP_BIND_TEST_CERTIFICATES names that folder to the tests. This file imports nothing of the
project, so that any Python with trustme can run it.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import trustme

BEFOREHAND = ["a.example", "*.b.example", "renewed.example", *(f"n{i}.example" for i in range(4))]
"""The names that tests ask for, beside those that every authority has issued."""
STRANGER = "stranger"
"""The folder of another authority in that of the first one."""


class Pair(NamedTuple):
    cert: str
    key: str


class Authority:
    """An authority, and certificates of it, as files in `folder`.

    One that finds its own certificate there takes the others from there too, and issues none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = str(folder / "ca.pem")
        self._authority: trustme.CA | None = None
        if not Path(self.ca).exists():
            import trustme

            folder.mkdir(exist_ok=True)
            self._authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
            self._authority.cert_pem.write_to_path(self.ca)
        self.server = self.issue("localhost", "127.0.0.1")
        self.client = self.issue("client.example")

    @property
    def expired(self) -> Pair:
        """A certificate that was valid until yesterday."""
        yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
        return self.issue("expired.example", not_after=yesterday)

    def issue(self, *names: str, not_after: datetime.datetime | None = None) -> Pair:
        """Issue a certificate for `names`; of one set of names only once."""
        pair = Pair(*(str(self.folder / f"{names[0].replace('*', '_')}.{k}") for k in Pair._fields))
        if Path(pair.key).exists():
            return pair
        assert self._authority is not None, f"{names[0]} belongs into BEFOREHAND, in {__file__}"
        import trustme

        made = self._authority.issue_cert(
            *names, not_after=not_after, key_type=trustme.KeyType.ECDSA
        )
        with Path(pair.cert).open("wb") as file:
            for blob in made.cert_chain_pems:
                file.write(blob.bytes())
        made.private_key_pem.write_to_path(pair.key)
        return pair


if __name__ == "__main__":
    authority = Authority(Path(sys.argv[1]))
    for name in BEFOREHAND:
        authority.issue(name)
    assert authority.expired
    Authority(authority.folder / STRANGER)
