"""Echo on uvloop: the same Protocols as `echo_asyncio.py`.

Exit code 77 (with the reason on stderr) when uvloop is not installed.
"""

from __future__ import annotations

import sys

from echo_asyncio import main

try:
    import uvloop
except ImportError:
    print("uvloop is not installed (pip install uvloop)", file=sys.stderr)
    sys.exit(77)

if __name__ == "__main__":
    main(uvloop.run)
