"""What ``python -m iocp_bind`` can do, one module a command."""
