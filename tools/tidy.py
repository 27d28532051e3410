"""clang-tidy over the sources of a build, skipping those that were found good before.

    tidy.py CLANG_TIDY BUILD SOURCE...

BUILD has compile_commands.json; sources that it does not know are passed over. A source is good
again when nothing that clang-tidy looks at has changed: the source and all that it includes, its
compile command, .clang-tidy, clang-tidy itself. Results that were good are remembered in
${XDG_CACHE_HOME:-~/.cache}/iocp_bind/tidied, for every checkout.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
REMEMBERED_FOR = 30 * 24 * 3600.0
"""Seconds since it was last used."""


def cache() -> Path:
    """Where what was found good is remembered, a file for each; made when it is not there."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "iocp_bind" / "tidied"
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.stat().st_mtime < time.time() - REMEMBERED_FOR:
            entry.unlink(missing_ok=True)
    return folder


@functools.cache
def hash_of(path: Path) -> str:
    """A digest of a file's content; many sources include the same."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_of(command: list[str], folder: Path) -> list[Path]:
    """The source and every file that it includes, by the compiler that it is built with."""
    listing = [*command, "-M", "-MF", "-"]
    at = listing.index("-o")
    del listing[at : at + 2]
    done = subprocess.run(listing, cwd=folder, check=True, capture_output=True, text=True)
    words = shlex.split(done.stdout.replace("\\\n", " "))
    return [(folder / word).resolve() for word in words[1:]]


def key_of(entry: dict[str, str], version: str) -> str:
    """The same exactly when clang-tidy would see the same, in whichever checkout."""
    folder = Path(entry["directory"])
    command = shlex.split(entry["command"])
    # Not -o, which names what clang-tidy never writes.
    named = [version, hash_of(REPOSITORY / ".clang-tidy"), *command[: command.index("-o")]]
    for path in files_of(command, folder):
        named += [str(path), hash_of(path)]
    text = "\0".join(named).replace(str(REPOSITORY), "")
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> int:
    """Look at each source that is not known to be good; 1 when one of them is not."""
    clang_tidy, build, *sources = sys.argv[1:]
    version = subprocess.run(
        [clang_tidy, "--version"], check=True, capture_output=True, text=True
    ).stdout
    wanted = {str(REPOSITORY / source) for source in sources}
    commands = json.loads((Path(build) / "compile_commands.json").read_text())
    entries = [entry for entry in commands if entry["file"] in wanted]
    good = cache()

    def look(entry: dict[str, str]) -> str | None:
        stamp = good / key_of(entry, version)
        if stamp.exists():
            stamp.touch()
            return None
        command = [clang_tidy, "--quiet", "-p", build, entry["file"]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            stamp.touch()
            return ""
        return done.stdout or done.stderr

    looked_at = failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        for found in threads.map(look, entries):
            looked_at += found is not None
            failed += bool(found)
            if found:
                print(found)
    print(f"{len(entries)} sources, {looked_at} looked at, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
