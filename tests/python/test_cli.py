"""`python -m iocp_bind`."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys

import pytest
from support import (
    REPOSITORY,
    Child,
    ask,
    linux_only,
    open_client,
    wait_until,
    windows_only,
)

import iocp_bind

COMMAND = [sys.executable, "-m", "iocp_bind"]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=90, check=False
    )


def test_info_lists_every_backend() -> None:
    done = _run("info")
    assert (done.returncode, done.stderr) == (0, "")
    assert iocp_bind.__version__ in done.stdout
    assert sys.version.split()[0] in done.stdout
    for name, info in iocp_bind.backends().items():
        (line,) = [line for line in done.stdout.splitlines() if line.split()[0] == name]
        assert ("available" in line) if info.available else (info.reason in line)


# ---- Nobody reads the output.


def _without_output(arguments: list[str], how: str) -> list[str]:
    """Return the command, of a shell: its standard output is closed, broken or full."""
    redirection = {"closed": ">&-", "full": ">/dev/full", "broken": ">&$broken"}[how]
    # A pipe whose reader has ended before the command begins.
    opening = "exec {broken}> >(:); wait $!; " if how == "broken" else ""
    return ["bash", "-c", f'{opening}exec "$@" {redirection}', "bash", *COMMAND, *arguments]


@linux_only
@pytest.mark.parametrize("how", ["closed", "broken", "full"])
@pytest.mark.parametrize("command", ["info", "demo"])
def test_a_command_whose_output_nobody_reads_ends_quietly(command: str, how: str) -> None:
    done = subprocess.run(
        _without_output([command], how), capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0
    if how == "full":
        assert done.stderr == "iocp_bind: cannot write the output: [Errno 28] " + (
            "No space left on device\n"
        )
    else:
        assert done.stderr == ""


def _listens(address: tuple[str, int]) -> bool:
    try:
        open_client(address).close()
    except ConnectionRefusedError:
        return False
    return True


@linux_only
@pytest.mark.parametrize("how", ["closed", "broken"])
def test_echo_serves_when_nobody_reads_its_report(backend: str, how: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address: tuple[str, int] = free.getsockname()
    arguments = ["echo", "--port", str(address[1]), "--backend", backend]
    with Child(_without_output(arguments, how)) as child:
        wait_until(lambda: _listens(address), "the server listening")
        for _ in range(3):
            with open_client(address) as client:
                assert ask(client, b"hello") == b"hello"
                assert ask(client, b"again") == b"again"
        child.process.send_signal(signal.SIGINT)
        done = child.finish()
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


@linux_only
def test_echo_goes_on_when_its_reader_leaves(backend: str) -> None:
    into_head = ["bash", "-c", 'exec "$@" > >(exec head -n 1)', "bash"]
    with Child([*into_head, *COMMAND, "echo", "--port", "0", "--backend", backend]) as child:
        address = child.listening()
        child.wait_for_end_of_output()
        with open_client(address) as client:
            for _ in range(5):
                assert ask(client, b"hello") == b"hello"
        child.process.send_signal(signal.SIGINT)
        done = child.finish()
    assert (done.code, done.stderr) == (0, "")


# ---- echo.


@linux_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_echo_reports_events_and_ends_cleanly(backend: str, number: signal.Signals) -> None:
    with Child([*COMMAND, "echo", "--port", "0", "--backend", backend]) as child:
        address = child.listening()
        with open_client(address) as client:
            assert ask(client, b"hello") == b"hello"
            assert "connected" in child.line_with("#")
            assert "5 bytes" in child.line_with("#")
            child.process.send_signal(number)
            done = child.finish()
    assert done.code == 0
    assert done.stderr == ""
    assert done.seconds < 2


@linux_only
@pytest.mark.slow
def test_children_can_be_interrupted_when_the_tests_run_in_the_background() -> None:
    """A script's job ignores SIGINT from its beginning, and what is ignored is inherited."""
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    pytest_here = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    test = f"{__file__}::{test_echo_reports_events_and_ends_cleanly.__name__}"
    done = subprocess.run(
        [*ignoring, *pytest_here, test],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@linux_only
def test_echo_ends_while_clients_keep_it_busy(backend: str) -> None:
    with Child([*COMMAND, "echo", "--port", "0", "--quiet", "--backend", backend]) as child:
        address = child.listening()
        with open_client(address) as client:
            ask(client, b"x")
            client.setblocking(False)
            try:
                while True:
                    client.send(bytes(65536))
            except BlockingIOError:
                pass
            child.process.send_signal(signal.SIGINT)
            done = child.finish()
    assert (done.code, done.stderr) == (0, "")
    assert done.seconds < 2


# At Ctrl-C and Ctrl-Break the console runs the handler on a thread of its own.
_ECHO_WITH_A_CONSOLE = """
import signal, sys, threading
from iocp_bind.__main__ import main

def console():
    signal.raise_signal(getattr(signal, sys.stdin.readline().strip()))

threading.Thread(target=console, daemon=True).start()
sys.exit(main(["echo", "--port", "0"]))
"""


@windows_only
@pytest.mark.parametrize("name", ["SIGINT", "SIGBREAK"])
def test_echo_ends_cleanly_at_ctrl_c_and_ctrl_break(name: str) -> None:
    with Child.of_script(_ECHO_WITH_A_CONSOLE) as child, open_client(child.listening()) as client:
        assert ask(client, b"hello") == b"hello"
        child.send_line(name)
        done = child.finish()
    assert (done.code, done.stderr) == (0, "")
    assert done.seconds < 2
    assert done.stdout.splitlines()[-1] == "stopped"


@windows_only
def test_another_program_can_stop_echo_by_an_event() -> None:
    if sys.platform != "win32":
        return
    name = f"iocp_bind_test_{os.getpid()}"
    kernel = ctypes.WinDLL("kernel32")
    kernel.OpenEventW.restype = ctypes.c_void_p
    kernel.SetEvent.argtypes = [ctypes.c_void_p]
    may_set = 0x0002
    command = [*COMMAND, "echo", "--port", "0", "--shutdown-event", name]
    with Child(command) as child, open_client(child.listening()) as client:
        assert ask(client, b"hello") == b"hello"
        event = kernel.OpenEventW(may_set, False, name)
        assert event
        assert kernel.SetEvent(event)
        client.close()
        done = child.finish()
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "stopped"


@windows_only
def test_an_event_that_is_set_before_echo_starts_stops_it() -> None:
    if sys.platform != "win32":
        return
    name = f"iocp_bind_test_early_{os.getpid()}"
    kernel = ctypes.WinDLL("kernel32")
    kernel.CreateEventW.restype = ctypes.c_void_p
    assert kernel.CreateEventW(None, False, True, name)
    done = _run("echo", "--port", "0", "--shutdown-event", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "stopped"


@linux_only
def test_a_named_event_is_of_windows() -> None:
    done = _run("echo", "--port", "0", "--shutdown-event", "x")
    assert done.returncode == 1
    assert "needs the named events of Windows; send SIGTERM here" in done.stderr


def test_echo_on_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = _run("echo", "--port", str(taken.getsockname()[1]))
    assert done.returncode != 0
    assert str(taken) not in done.stdout
    assert "127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["echo", "--port", "much"],
        ["echo", "--port", "70000"],
        ["echo", "--backend", "nonsense", "--port", "0"],
        ["echo", "--workers", "0", "--port", "0"],
        ["demo", "--backend", "nonsense"],
    ],
)
def test_bad_arguments_get_an_answer(arguments: list[str]) -> None:
    done = _run(*arguments)
    assert done.returncode != 0
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_help() -> None:
    done = _run("--help")
    assert done.returncode == 0
    for command in ("echo", "demo", "info"):
        assert command in done.stdout


def test_demo(backend: str) -> None:
    done = _run("demo", "--backend", backend)
    assert (done.returncode, done.stderr) == (0, "")
    assert backend in done.stdout


def test_demo_of_all_backends() -> None:
    done = _run("demo")
    assert (done.returncode, done.stderr) == (0, "")
    for name, info in iocp_bind.backends().items():
        assert name in done.stdout
        if not info.available:
            assert info.reason in done.stdout
