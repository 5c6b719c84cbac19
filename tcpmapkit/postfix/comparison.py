"""``postfix-config --postconf``: a Postfix's configuration beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcpmapkit.postfix.differences import difference_rows, time_out_rows
from tcpmapkit.postfix.fit import pointing_rows
from tcpmapkit.postfix.main_cf import main_cf_lines
from tcpmapkit.postfix.pointing import Row, find_pointing
from tcpmapkit.postfix.postconf import QUEUE_DIRECTORY, Postconf
from tcpmapkit.postfix.served import Served
from tcpmapkit.postfix.values import NotUnderstood

__all__ = ["compare"]


def compare(postconf: Postconf, served: Sequence[Served]) -> Iterator[Row]:
    """What there is to say, as records: kind, what it is about, text.

    Kinds: ``points here``, ``not asked``, ``refused``, ``no such map``, ``no listener``,
    ``wrong protocol``, ``search``, ``stage``, ``chroot``, ``inet_protocols``, ``time-out``,
    ``default action``, ``differs``, ``not understood``, and ``assumed`` for the defaults that the
    comparison rests on.
    """
    assumed: dict[str, str] = {}

    def read(name: str, service: str) -> str:
        value = postconf.value(name, service)
        if name not in postconf.values and name not in postconf.overrides.get(service, {}):
            assumed[name] = value
        return value

    try:
        queue_directory = read("queue_directory", "")
    except NotUnderstood as error:
        queue_directory = QUEUE_DIRECTORY
        yield ("not understood", "queue_directory", f"{error}; taken for {QUEUE_DIRECTORY}")
    pointing, missed = find_pointing(postconf, served, queue_directory)
    yield from pointing_rows(postconf, pointing, queue_directory)
    yield from missed
    for one in served:
        asked = {each.map.name for each in pointing if each.served is one and each.map is not None}
        lines = main_cf_lines(one, queue_directory)
        for each, line in zip(one.maps, lines, strict=True):
            if each.name not in asked:
                yield ("not asked", str(one.listener.endpoint), f"map {each.name}: such as {line}")
    yield from time_out_rows(read, served, pointing)
    yield from difference_rows(read, {each.name: each for one in served for each in one.maps}.values())
    for number, line in postconf.strange:
        yield ("not understood", f"line {number}", line)
    for name, value in assumed.items():
        yield ("assumed", name, f'"{value}": it is not in the text, so Postfix\'s default')
