"""The two man pages, of what the program itself says: its commands, and the options of its file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from manual.roff import Page, bold, escape
from manual.words import default_words, sentence, type_words, with_members
from tcpmapkit.cache import CacheOptions
from tcpmapkit.cli import main
from tcpmapkit.config import AdminConfig, ListenerConfig, LogConfig, PluginsConfig, ServerConfig
from tcpmapkit.config.model import MapConfig, MapTest, PolicyTest, StepConfig
from tcpmapkit.config.options import Option, options_of, type_options
from tcpmapkit.plugins import load_plugins

__all__ = ["SECTIONS", "commands_page", "configuration_page"]

DOCS: Final = Path(__file__).resolve().parent.parent / "docs"

#: Each table of the file, with the class that reads it.
SECTIONS: Final[dict[str, type]] = {
    "[server]": ServerConfig,
    "[log]": LogConfig,
    "[admin]": AdminConfig,
    "[plugins]": PluginsConfig,
    "[[listeners]]": ListenerConfig,
    "[[listeners.tests]]": PolicyTest,
    "[maps.NAME]": MapConfig,
    "cache": CacheOptions,
    "[[maps.NAME.resolvers]]": StepConfig,
    "[[maps.NAME.tests]]": MapTest,
}


def commands_page() -> Page:
    """tcpmapkit(1)."""
    page = Page("tcpmapkit", 1, version("tcpmapkit"), "a lookup server for Postfix")
    page.section("SYNOPSIS")
    context = click.Context(main, info_name="tcpmapkit")
    for name in sorted(main.commands):
        page.paragraph(f"`tcpmapkit {name}` {_usage(main.commands[name], context)}")
    page.section("DESCRIPTION")
    page.paragraph(inspect.cleandoc(main.help or ""))
    page.paragraph(
        "Values go to standard output; errors, warnings and hints to standard error. Every command has"
        " `-h`, `--help`. What the configuration may say is in tcpmapkit.toml(5)."
    )
    page.section("COMMANDS")
    for name in sorted(main.commands):
        command = main.commands[name]
        page.subsection(f"tcpmapkit {name}")
        for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
            page.paragraph(paragraph)
        inner = click.Context(command, info_name=name, parent=context)
        for parameter in command.params:
            record = parameter.get_help_record(inner)
            if record is not None and record[1]:
                page.item(_option_words(record[0]), record[1])
    page.section("EXIT STATUS")
    for number, meaning in _statuses():
        page.item(bold(number), sentence(meaning))
    page.section("ENVIRONMENT")
    page.item(bold("CACHE_DIRECTORY"), "Where the indexes of large tables are kept; systemd sets it.")
    listening = "`LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`"
    told = "`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`"
    page.paragraph(f"{told}: where systemd is told how the server is. {listening}: sockets that it passes.")
    page.section("FILES")
    page.item(bold("tcpmapkit.toml"), "in the current directory: the configuration, unless -c names one.")
    page.item(bold("/etc/tcpmapkit/tcpmapkit.toml"), "The configuration where there is none.")
    _see_also(page, "tcpmapkit.toml(5)", "postmap(1)", "tcp_table(5)", "socketmap_table(5)")
    return page


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join(command.collect_usage_pieces(click.Context(command, parent=context)))


def _option_words(record: str) -> str:
    """``-c, --config PATH`` with what is typed in bold and the rest in italics."""
    return re.sub(
        r"\\-[\\\-\w]+|\[?[A-Z][A-Z ]*\]?",
        lambda word: f"\\fB{word[0]}\\fR" if word[0].startswith("\\") else f"\\fI{word[0]}\\fR",
        escape(record),
    )


def _statuses() -> list[tuple[str, str]]:
    """Status and meaning of each, as the table of the commands has them."""
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    return re.findall(r"^\| (\d+) \| (.*?) \|$", text, re.MULTILINE)


def configuration_page() -> Page:
    """tcpmapkit.toml(5)."""
    what = "the configuration of tcpmapkit, a lookup server for Postfix"
    page = Page("tcpmapkit.toml", 5, version("tcpmapkit"), what)
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    introduction, _, _ = text.partition("\n## ")
    page.section("DESCRIPTION")
    page.paragraph(
        "One file in TOML 1.1: named maps, each a chain of resolvers that are asked in order, and listeners"
        " where Postfix asks. It is read strictly: an unknown option, a wrong type or a bad value is an"
        " error. `tcpmapkit check` tells every mistake at once."
    )
    example = re.search(r"^```toml\n(.*?)^```$", introduction, re.MULTILINE | re.DOTALL)
    if example is not None:
        page.example(example[1].splitlines())
    page.section("VALUES")
    for bullet in re.findall(r"^\* (.*(?:\n  .*)*)", introduction, re.MULTILINE):
        page.paragraph(re.sub(r" \(\[below\].*?\)\)", "", bullet))
    page.section("TABLES")
    for heading, cls in SECTIONS.items():
        page.subsection(heading if heading.startswith("[") else f"{heading} of a map")
        _options(page, options_of(cls))
    page.section("RESOLVER TYPES")
    page.paragraph("What each type takes beside the options of every step. `tcpmapkit plugins` lists all.")
    for name, one in sorted(load_plugins().types.items()):
        if one.source.startswith("tcpmapkit."):
            page.subsection(name)
            _options(page, type_options(one))
    _see_also(page, "tcpmapkit(1)", "tcp_table(5)", "socketmap_table(5)", "postconf(5)")
    return page


def _options(page: Page, options: Iterable[Option]) -> None:
    for name, option in with_members(options).items():
        default = default_words(option)
        said = default if default in ("", "required") else f"default {default}"
        kind = type_words(option.annotation)
        page.item(bold(name), sentence(option.help), f"{sentence(kind)} {sentence(said)}".strip())


def _see_also(page: Page, *others: str) -> None:
    page.section("SEE ALSO")
    page.paragraph(", ".join(others))
