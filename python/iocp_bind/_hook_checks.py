"""The hooks that a subclass of Server defines: `start` looks them up and checks them, once."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

# The hooks, and the arguments they are called with.
HOOK_ARGUMENTS = {
    "on_connection_established": ("conn",),
    "on_read_completed": ("conn", "data"),
    "on_message": ("conn", "message"),
    "on_messages": ("conn", "messages"),
    "on_write_completed": ("conn", "nbytes"),
    "on_writable": ("conn",),
    "on_end_of_stream": ("conn",),
    "on_connection_error": ("conn", "error"),
    "on_connection_closing": ("conn", "reason"),
    "on_hook_error": ("conn", "hook", "exc"),
}

Hook = Callable[..., object]

# The names that other packages give them.
_OTHER_NAMES = {
    "on_accept": "on_connection_established",
    "on_close": "on_connection_closing",
    "on_closed": "on_connection_closing",
    "on_connect": "on_connection_established",
    "on_connected": "on_connection_established",
    "on_connection_writable": "on_writable",
    "on_data": "on_read_completed",
    "on_disconnect": "on_connection_closing",
    "on_disconnected": "on_connection_closing",
    "on_drain": "on_writable",
    "on_drained": "on_writable",
    "on_end": "on_end_of_stream",
    "on_eof": "on_end_of_stream",
    "on_eof_received": "on_end_of_stream",
    "on_error": "on_connection_error",
    "on_line": "on_message",
    "on_lines": "on_messages",
    "on_open": "on_connection_established",
    "on_read": "on_read_completed",
    "on_receive": "on_read_completed",
    "on_resume_writing": "on_writable",
    "on_write": "on_write_completed",
}


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
        return hook  # some built-in functions have no signature
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


def check_message_hooks(server: object, hooks: dict[str, object], *, framed: bool) -> None:
    """Raise TypeError unless `server` has the one hook that messages go to, if it needs one."""
    name = type(server).__name__
    one, many = hooks["on_message"] is not None, hooks["on_messages"] is not None
    if one and many:
        raise TypeError(
            f"{name} overrides on_message and on_messages: which of them should be called? "
            "Keep on_messages for speed, or on_message for one message at a time"
        )
    if framed and not one and not many:
        raise TypeError(
            f"{name} has a framing and overrides neither on_message nor on_messages, so nobody "
            "would get its messages: override one of them, or start it with framing=None"
        )
    if not framed and (one or many) and hooks["on_read_completed"] is None:
        raise TypeError(
            f"{name} overrides {'on_message' if one else 'on_messages'} and has no framing, so "
            "nobody would get what clients send: set the attribute framing, or start it with "
            "framing=...; or override on_read_completed for clients without a framing"
        )


def _is_method(attribute: object) -> bool:
    return callable(attribute) or isinstance(attribute, classmethod)


def refuse_hidden_methods(server: object, base: type) -> None:
    """Raise TypeError if an attribute of `server` hides a public method or property of `base`.

    A method may be overridden by a method, and a property by a property.
    """
    for name, ours in vars(base).items():
        if name.startswith(("_", "on_")) or not (callable(ours) or isinstance(ours, property)):
            continue
        theirs = inspect.getattr_static(server, name)
        if isinstance(ours, property):
            fits = inspect.isdatadescriptor(theirs)
        else:
            fits = _is_method(theirs)
        if not fits:
            if name == "tls":
                raise TypeError(
                    f"{type(server).__name__}.tls cannot be set in the class: set self.tls in "
                    "__init__, or pass tls= to start() or run()"
                )
            kind = "property" if isinstance(ours, property) else "method"
            raise TypeError(
                f"{type(server).__name__}.{name} hides a {kind} of Server that is needed; "
                "give the attribute another name"
            )


def _in_camel_case(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


# The names of the same hooks in C++.
_NAMES_IN_CPP = {_in_camel_case(name): name for name in HOOK_ARGUMENTS} | {
    "OnConnectionWritable": "on_writable"
}


def refuse_unknown_hooks(server: object, base: type) -> None:
    """Raise TypeError if `server` has a function ``on_...`` that `base` does not know."""
    classes = list(type(server).__mro__)
    names = [name for kind in classes[: classes.index(base)] for name in vars(kind)]
    names += object.__getattribute__(server, "__dict__")
    for name in names:
        in_cpp = _NAMES_IN_CPP.get(name)
        if in_cpp is None and (not name.startswith("on_") or name in HOOK_ARGUMENTS):
            continue
        if not _is_method(inspect.getattr_static(server, name)):
            continue
        near = difflib.get_close_matches(name, HOOK_ARGUMENTS, n=1)
        likely = in_cpp or _OTHER_NAMES.get(name) or (near[0] if near else None)
        meant = f"did you mean {likely}?" if likely else f"hooks are {', '.join(HOOK_ARGUMENTS)}."
        raise TypeError(
            f"{type(server).__name__}.{name} is not a hook: {meant} "
            "A method of your own needs another name, which does not begin with on_"
        )
