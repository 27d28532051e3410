"""Which hooks a server overrides, looked up and checked once, by `start`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

# The hooks that cost something when they are called, with what they are called with.
HOOK_ARGUMENTS = {
    "on_connection_established": ("conn",),
    "on_read_completed": ("conn", "data"),
    "on_write_completed": ("conn", "nbytes"),
    "on_connection_error": ("conn", "error"),
    "on_connection_closing": ("conn", "reason"),
    "on_hook_error": ("conn", "hook", "exc"),
}

Hook = Callable[..., object]


def check_hook(name: str, hook: object) -> Hook:
    """Return `hook` if it can be called as the hook `name` is, else raise TypeError."""
    arguments = HOOK_ARGUMENTS[name]
    called = f"{name}({', '.join(arguments)})"
    if not callable(hook):
        raise TypeError(f"{name} must be a function, called as {called}, not {hook!r}")
    # An object may be callable by an async method of its own.
    for function in (hook, inspect.getattr_static(hook, "__call__", None)):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{name} must be a plain function: hooks run on native threads and nothing would "
                "await it; remove 'async', or hand the work to your event loop with "
                "asyncio.run_coroutine_threadsafe"
            )
        if inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{name} must be a plain function: nothing would run the generator that it returns"
            )
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):
        return hook  # some built-in functions do not tell
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"{name} must be callable as {called}: {error}") from None
    return hook


def overridden_hooks(server: Any, base: type) -> dict[str, Hook | None]:
    """Return each hook of `server` that is not the one of `base`; None for the others."""
    hooks: dict[str, Hook | None] = {}
    for name in HOOK_ARGUMENTS:
        hook = getattr(server, name)
        is_default = getattr(hook, "__func__", None) is getattr(base, name)
        hooks[name] = None if is_default else check_hook(name, hook)
    return hooks
