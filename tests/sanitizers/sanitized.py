"""A plugin of pytest: what is left out under a sanitizer, and why; and that there is one at all."""

from __future__ import annotations

from pathlib import Path

import pytest

import iocp_bind._core

RUNTIMES = ("asan", "tsan")

MEMORY = "the figure is the memory of a process, most of which is the sanitizer's"

# By file, or by file and function.
LEFT_OUT = {
    "test_cost.py": "counts instructions, of which a sanitizer has its own; callgrind has no room",
    "test_hardening.py": "a sanitizer checks the calls itself",
    "test_typing.py": "mypy's work: none of our native code runs",
    "test_out_of_memory.py": "its heap takes the place of the sanitizer's",
    "test_interpreter.py::test_the_interpreter_may_end_while_daemon_threads_call": (
        "CPython never gives back what threads hold that its end finds in a call"
    ),
    "test_promises.py::test_many_small_lines_for_clients_that_do_not_read": MEMORY,
    "test_promises.py::test_a_long_stream_to_a_slow_reader": MEMORY,
    "test_promises.py::test_a_client_that_sends_and_never_reads": MEMORY,
    "test_promises.py::test_short_connections": MEMORY,
    "test_promises.py::test_starts_and_shutdowns": MEMORY,
    "test_tls_options.py::test_it_is_freed": MEMORY,
    "test_promises.py::test_memory_of_an_idle_connection_that_has_spoken_once": MEMORY,
}


def _place(item: pytest.Item) -> str:
    function = getattr(item, "originalname", item.name)
    return f"{item.path.name}::{function}"


def pytest_configure(config: pytest.Config) -> None:
    """Without this a package of another build would pass everything."""
    module = Path(iocp_bind._core.__file__)
    loaded = Path("/proc/self/maps").read_text()
    built_for = [name for name in RUNTIMES if f"__{name}_init".encode() in module.read_bytes()]
    if not any(f"/lib{name}.so" in loaded for name in built_for):
        raise pytest.UsageError(f"{module} is not built for a sanitizer that runs here")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unused = set(LEFT_OUT)
    for item in items:
        place = _place(item)
        for key in (place, place.partition("::")[0]):
            if key in LEFT_OUT:
                item.add_marker(pytest.mark.skip(reason=LEFT_OUT[key]))
                unused.discard(key)
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if everything and unused:
        raise pytest.UsageError(f"there are no such tests: {', '.join(sorted(unused))}")
