"""``./dev manual``: write what is generated."""

from __future__ import annotations

from pathlib import Path

from manual.completion import SCRIPTS, completion_script
from manual.pages import commands_page, configuration_page

__all__ = ["generated"]

PLACE = Path(__file__).resolve().parent.parent / "packaging"


def generated() -> dict[Path, str]:
    """Each file below ``packaging/`` that nobody writes by hand, and its text."""
    pages = {"tcpmapkit.1": commands_page(), "tcpmapkit.toml.5": configuration_page()}
    files = {PLACE / "man" / name: str(page) for name, page in pages.items()}
    files |= {PLACE / "completion" / name: completion_script(shell) for shell, name in SCRIPTS.items()}
    return files


if __name__ == "__main__":
    for file, text in generated().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
