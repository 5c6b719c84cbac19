"""The scripts that complete a command line, as click makes them."""

from __future__ import annotations

from typing import Final

from click.shell_completion import get_completion_class

from tcpmapkit.cli import main

__all__ = ["SCRIPTS", "completion_script"]

#: The file that each shell looks for, in its directory of completions.
SCRIPTS: Final = {"bash": "tcpmapkit", "zsh": "_tcpmapkit", "fish": "tcpmapkit.fish"}


def completion_script(shell: str) -> str:
    """The script for a shell, one of `SCRIPTS`."""
    found = get_completion_class(shell)
    assert found is not None, shell
    made = found(main, {}, "tcpmapkit", "_TCPMAPKIT_COMPLETE")
    # Not source(), which runs bash to learn its version.
    return (made.source_template % made.source_vars()).strip() + "\n"
