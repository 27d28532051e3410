"""The commands of ``python -m iocp_bind``, a module each."""
