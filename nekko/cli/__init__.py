"""The command line. Client commands ask the running daemon over its socket; nothing here touches the layout itself.

Modules import click and little else; what is heavy (rich, YAML, the daemon) is imported inside the command that needs
it, so that `nekko rm` starts fast. Results go to standard output, progress and errors to standard error.

Exit codes: see `exits.Exit`.
"""
