"""Command line: ``python -m iocp_bind echo | demo | info``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from iocp_bind import __version__
from iocp_bind._commands import demo, echo, info


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m iocp_bind", description="TCP servers on completion ports."
    )
    parser.add_argument("--version", action="version", version=f"iocp_bind {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    echo_parser = commands.add_parser(
        "echo", help="an echo server that reports its events; Ctrl-C ends it"
    )
    echo_parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    echo_parser.add_argument("--port", type=int, default=4567, help="default: %(default)s")
    echo_parser.add_argument("--backend", default="auto", help="default: %(default)s")
    echo_parser.add_argument("--workers", type=int, default=None, help="native threads")
    echo_parser.add_argument("--quiet", action="store_true", help="do not report events")
    echo_parser.add_argument(
        "--shutdown-event", metavar="NAME", help="end when this named event is set (Windows)"
    )
    echo_parser.add_argument(
        "--tls-cert", metavar="FILE", help="serve with TLS: the certificate, in PEM format"
    )
    echo_parser.add_argument(
        "--tls-key", metavar="FILE", help="its private key; default: it is in the same file"
    )
    echo_parser.set_defaults(run=echo.run)

    demo_parser = commands.add_parser(
        "demo", help="serve real clients on a free port, show what happened"
    )
    demo_parser.add_argument(
        "--backend", default=None, help="only this one; default: each that can run here"
    )
    demo_parser.set_defaults(run=lambda args: demo.run(args.backend))

    info_parser = commands.add_parser("info", help="back-ends, with reasons, and versions")
    info_parser.set_defaults(run=lambda _: info.run())
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the process's exit code. 130 is Ctrl-C, as in a shell."""
    args = _parser().parse_args(arguments)
    try:
        code: int = args.run(args)
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
