"""Another site in the place of the one that is served: built beside it, started, tested, then to be taken.

What is the same in both is the same object: a map of which neither definition nor tables are others serves
on with all that it has cached, a resolver whose options and files are the same with its connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import attrs

from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.held import has_shrunk
from tcpmapkit.site import Site, build_site, located
from tcpmapkit.site_tests import run_site_tests

if TYPE_CHECKING:
    from tcpmapkit.built_step import BuiltStep, Place
    from tcpmapkit.config import Document

__all__ = ["Renewal", "renew"]

_FORCE = "`tcpmapkit reload --force` takes it as it is"


@attrs.frozen(eq=False)
class Renewal:
    """A site that can be served instead. `changed` names its maps that are not those of the one before;
    `warnings` say what could not be tested; `held` are the tables that keep their old contents, and why."""

    site: Site
    changed: frozenset[str] = frozenset()
    warnings: tuple[ConfigError, ...] = ()
    held: Mapping[Place, ConfigError] = attrs.field(factory=dict)


async def renew(site: Site, document: Document | None = None, *, force: bool = False) -> Renewal:
    """A site made of `document`, or the one there is with the tables whose files have changed.

    A document is taken whole or not at all: raises `ConfigErrors`, located, for every mistake, a table
    that does not load or lost too many rows, a test that gives a wrong answer. Tables are taken one by one:
    what is wrong with one is in `Renewal.held`. `force` takes tables whatever they lost. What a renewal
    began is stopped again when it fails, and by the caller when it is not taken.
    """
    alone = {one.place: one for one in site.maps.steps if one.alone}
    stale = await asyncio.to_thread(lambda: [one for one in site.maps.steps if not one.is_current()])
    if document is None:
        return await _with_tables(site, alone, stale, force)
    kept = {place: one for place, one in alone.items() if one not in stale}
    new = await asyncio.to_thread(_build, site, document, kept)
    try:
        if new.mistakes:
            raise ConfigErrors(new.mistakes)
        await new.start()
        shrunk = [] if force else _shrunk(alone, new.maps.steps)
        if shrunk:
            raise located(document, shrunk)
        results = await run_site_tests(new)
        if results.wrong:
            raise located(document, results.wrong)
    except BaseException:
        await new.maps.stop(but=site.maps)
        raise
    return Renewal(new, _changed(site, new), located(document, results.failed).errors)


def _build(site: Site, document: Document, kept: Mapping[Place, BuiltStep]) -> Site:
    return build_site(document, site.plugins, clock=site.maps.clock, before=site.maps, kept=kept)


def _changed(old: Site, new: Site) -> frozenset[str]:
    before = old.maps.maps
    return frozenset(name for name, map in new.maps.maps.items() if before.get(name) is not map)


def _shrunk(old: Mapping[Place, BuiltStep], new: Iterable[BuiltStep]) -> list[ConfigError]:
    """The tables of the same files that lost too many rows."""
    return [error for one in new if one.place in old and (error := _loss(old[one.place], one)) is not None]


def _loss(old: BuiltStep, new: BuiltStep) -> ConfigError | None:
    """What is wrong with a table that lost too many rows."""
    files = getattr(new.resolver, "files", ())
    if old is new or old.rows is None or new.rows is None or files != getattr(old.resolver, "files", ()):
        return None
    if not has_shrunk(old.rows, new.rows, new.config.max_shrink):
        return None
    text = f"the table has {new.rows} rows now and had {old.rows}"
    return ConfigError(text, path=new.config.path, hint=_FORCE)


# Tables alone


async def _with_tables(
    site: Site, alone: Mapping[Place, BuiltStep], stale: list[BuiltStep], force: bool
) -> Renewal:
    fresh: dict[Place, BuiltStep] = {}
    held: dict[Place, ConfigError] = {}
    # A group with files of its own is made anew with any other site.
    groups, stale = [one for one in stale if not one.alone], [one for one in stale if one.alone]
    for old, outcome in zip(stale, await asyncio.gather(*(_load(one, force) for one in stale)), strict=True):
        if isinstance(outcome, ConfigError):
            held[old.place] = located(site.document, [outcome])
        else:
            fresh[old.place] = outcome
    new = site
    try:
        while fresh or groups:
            new = await asyncio.to_thread(_build, site, site.document, {**alone, **fresh})
            if new.mistakes:  # of the document, which was right
                raise ConfigErrors(new.mistakes)
            changed = {*fresh, *(one.place for one in groups)}
            try:
                await new.start()
                wrong = await _fail_without_network(new, {**alone, **fresh})
                blamed = {
                    place: error for error in wrong for place in _reached(new, error) if place in changed
                }
            except ConfigError as error:
                blamed = dict.fromkeys(changed, error)
            if not blamed:
                break
            await asyncio.gather(*(fresh.pop(place).stop() for place in blamed if place in fresh))
            groups = [one for one in groups if one.place not in blamed]
            held |= {place: located(site.document, [error]) for place, error in blamed.items()}
            await new.maps.stop(but=site.maps)
            new = site
    except BaseException:
        await asyncio.gather(*(one.stop() for one in fresh.values()))
        raise
    return Renewal(new, _changed(site, new), held=held)


async def _load(old: BuiltStep, force: bool) -> BuiltStep | ConfigError:
    """The step with its table loaded anew, or what is wrong with that."""
    try:
        new = old.again()
        await new.start()
    except ConfigError as error:
        return error
    loss = None if force else _loss(old, new)
    if loss is not None:
        await new.stop()
        return loss
    return new


async def _fail_without_network(new: Site, steps: Mapping[Place, BuiltStep]) -> list[ConfigError]:
    """The tests that give a wrong answer, those left out that need a network: a table is not refused, and
    not taken late, because of a source that has nothing to do with it."""
    offline = await asyncio.to_thread(
        build_site, new.document, new.plugins, clock=new.maps.clock, offline=True, kept=steps
    )
    try:
        await offline.start()
        return (await run_site_tests(offline)).wrong
    finally:
        await offline.maps.stop(but=new.maps)


def _reached(site: Site, error: ConfigError) -> list[Place]:
    """The steps that have to do with the answer to a test, by the path of its error."""
    section, name = error.path[:2]
    if section == "listeners":
        assert isinstance(name, int)
        name = site.config.listeners[name].map or ""
    reached = site.maps.reached([str(name)])
    return [one.place for one in site.maps.steps if one.context.map in reached]
