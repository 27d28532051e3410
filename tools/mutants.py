#!/usr/bin/env python3
"""Prove that the tests of the original's defects can fail.

tests/mutants.toml plants what the original did, one mutant after the other, in a copy of the
sources. The tests that the table of docs/evidence/testing.md names for that row, or those that the
mutant names itself, must find it: by failing, by crashing, by not ending in time, or, where the
mutant says so, by not compiling. The copy and what is built from it stay in build/mutants, so that
only what a mutant changes is compiled.

Ends with 1 when a mutant was not found, or does not fit the sources any more.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "python"))

from named_tests import NamedTest, read_table  # noqa: E402

FOLDER = REPOSITORY / "build" / "mutants"
SOURCE = FOLDER / "source"
BUILD = FOLDER / "build"
COPIED = ["CMakeLists.txt", "CMakePresets.json", "examples", "cmake", "cpp", "tests/cpp", "tools"]

# Seconds for the tests of one row in one program; they need less than one, or hang.
PATIENCE = 60


class Found(NamedTuple):
    """How a mutant was found."""

    how: str  # "failed", "crashed", "hung", "refused"
    by: str  # the test


def program_of(test: NamedTest) -> str | None:
    """Return the program that has the test, or None where it is none of this system's in C++."""
    if not test.file.endswith(".cpp") or test.file.endswith("_windows.cpp"):
        return None
    folder = Path(test.file).parent
    lists = (REPOSITORY / "tests/cpp" / folder / "CMakeLists.txt").read_text("utf-8")
    for name, sources in re.findall(r"iocp_(?:tls_)?test\((\w+)([^)]*)\)", lists):
        if Path(test.file).name in [f"{name}.cpp", *sources.split()]:
            return f"{folder}/{name}"
    sys.exit(f"no program has {test.file}")


def programs_of(tests: tuple[NamedTest, ...]) -> dict[str, list[str]]:
    """Return the names of the tests by program, the quickest program first."""
    programs: dict[str, list[str]] = {}
    for test in tests:
        program = program_of(test)
        if program is not None:
            programs.setdefault(program, []).append(test.name)
    return programs


def write_if_other(path: Path, content: bytes) -> None:
    """Leave the time of a file alone that is as it should be."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def copy_sources() -> None:
    """Bring the copy up to date: no mutant is left in it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *COPIED], cwd=REPOSITORY, check=True, capture_output=True
    )
    for name in listed.stdout.decode().split("\0"):
        original = REPOSITORY / name
        if name and original.is_file():
            target = SOURCE / name
            write_if_other(target, original.read_bytes())
            target.chmod(original.stat().st_mode)


def build(programs: list[str], jobs: int) -> str:
    """Build; what the compiler says when it refuses, and nothing when all is well."""
    targets = [Path(program).name for program in programs]
    command = ["cmake", "--build", str(BUILD), "-j", str(jobs), "--target", *targets]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def configure() -> None:
    """Configure with the flags of the preset dev, without what only a debugger reads."""
    options = ["-DCMAKE_CXX_FLAGS_DEBUG=", "-DIOCP_WERROR=OFF"]
    subprocess.run(
        ["cmake", "--preset", "dev", "-B", str(BUILD), *options],
        cwd=SOURCE,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def run_tests(program: str, names: list[str]) -> Found | None:
    """Run the tests; None when all of them pass."""
    patterns = ":".join(f"*.{name}:*.{name}/*" for name in names)
    command = [str(BUILD / "tests/cpp" / program), f"--gtest_filter={patterns}"]
    command.append("--gtest_fail_fast")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
            how = "failed" if process.returncode == 1 else "crashed"
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            how = "hung"
    if how != "hung" and process.returncode == 0:
        missing = [name for name in names if f".{name}" not in output]
        if missing:
            sys.exit(f"{program} has no {', '.join(missing)}")
        return None
    # A test that crashed or hung was the last one to begin.
    begun = "[  FAILED  ]" if how == "failed" else "[ RUN      ]"
    tests = [line.split(begun)[1].split()[0] for line in output.splitlines() if begun in line]
    return Found(how, (tests or ["?"])[0 if how == "failed" else -1].rstrip(","))


def find(mutant: dict[str, Any], programs: dict[str, list[str]], jobs: int) -> Found | None:
    """Build one program after the other with what was planted, until a test finds it."""
    for program, names in programs.items():
        refused = build([program], jobs)
        if refused:
            if "refused" in mutant and mutant["refused"] in refused:
                return Found("refused", program)
            sys.exit(f"{mutant['row']}: {mutant['what']}: does not build:\n{refused[-3000:]}")
        found = run_tests(program, names)
        if found is not None:
            return found
    return None


def plant(mutant: dict[str, Any]) -> dict[Path, bytes]:
    """Change the copy; return what was there before."""
    before: dict[Path, bytes] = {}
    for edit in mutant["edit"]:
        path = SOURCE / edit["file"]
        text = path.read_text("utf-8")
        before.setdefault(path, path.read_bytes())
        if text.count(edit["old"]) != 1:
            restore(before)
            sys.exit(
                f"{mutant['row']}: {mutant['what']}: does not fit {edit['file']}, which has "
                f"{text.count(edit['old'])} times:\n{edit['old']}"
            )
        path.write_text(text.replace(edit["old"], edit["new"]), "utf-8")
    return before


def restore(before: dict[Path, bytes]) -> None:
    """Take a mutant out again."""
    for path, content in before.items():
        path.write_bytes(content)


def main() -> int:
    """Plant, build, run, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", help="only these, D01 for one; all by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()

    table = {row.id: programs_of(row.tests) for row in read_table()}
    mutants = tomllib.loads((REPOSITORY / "tests/mutants.toml").read_text("utf-8"))["mutant"]
    if arguments.rows:
        mutants = [mutant for mutant in mutants if mutant["row"] in arguments.rows]
    rows = sorted({mutant["row"] for mutant in mutants})
    searched = {mutant["what"]: mutant.get("tests") or table[mutant["row"]] for mutant in mutants}

    began = time.monotonic()
    copy_sources()
    configure()
    needed = sorted({program for programs in searched.values() for program in programs})
    refused = build(needed, arguments.jobs)
    if refused:
        sys.exit(f"the sources themselves do not build:\n{refused[-3000:]}")
    tests: dict[str, set[str]] = {}
    for programs in searched.values():
        for program, names in programs.items():
            tests.setdefault(program, set()).update(names)
    for program, all_names in tests.items():
        found = run_tests(program, sorted(all_names))
        if found is not None:
            sys.exit(f"{found.by} {found.how} without any mutant")

    not_found: list[str] = []
    print(f"{'row':4} {'mutant':76} found by", flush=True)
    for mutant in mutants:
        before = plant(mutant)
        try:
            found = find(mutant, searched[mutant["what"]], arguments.jobs)
        finally:
            restore(before)
        if found is None:
            not_found.append(mutant["row"])
        verdict = "NOT FOUND" if found is None else f"{found.by} ({found.how})"
        print(f"{mutant['row']:4} {mutant['what']:76} {verdict}", flush=True)
    print(
        f"{len(mutants)} mutants of {len(rows)} rows, {len(not_found)} not found, "
        f"{time.monotonic() - began:.0f} s"
    )
    if not_found:
        again = " ".join(dict.fromkeys(not_found))
        print(f'To repeat this failure:\n    make mutants ROWS="{again}"')
    return 1 if not_found else 0


if __name__ == "__main__":
    sys.exit(main())
