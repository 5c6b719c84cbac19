"""Another site in the place of the one that is served: built beside it, started, tested, then to be taken.

What is the same in both is the same object: a map of which neither definition nor tables are others serves
on with all that it has cached, a resolver whose options and files are the same with its connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING

import attrs

from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.held import has_shrunk
from tcpmapkit.site import Site, build_site, located
from tcpmapkit.site_tests import run_site_tests

if TYPE_CHECKING:
    from tcpmapkit.at_rest import AtRest
    from tcpmapkit.built_step import BuiltStep, Place
    from tcpmapkit.config import Document

__all__ = ["Renewal", "fail_without_network", "loss", "renew"]

_FORCE = "`tcpmapkit reload --force` takes it as it is"


@attrs.frozen(eq=False)
class Renewal:
    """A site that can be served instead. `changed` names its maps that are not those of the one before;
    `warnings` say what could not be tested; `held` are the tables that keep their old contents, and why,
    `unrested` those that do since their files are not at rest."""

    site: Site
    changed: frozenset[str] = frozenset()
    warnings: tuple[ConfigError, ...] = ()
    held: Mapping[Place, ConfigError] = attrs.field(factory=dict)
    unrested: Set[Place] = frozenset()


async def renew(
    site: Site, document: Document | None = None, *, force: bool = False, at_rest: AtRest | None = None
) -> Renewal:
    """A site made of `document`, or the one there is with the tables whose files have changed.

    A document is taken whole or not at all: raises `ConfigErrors`, located, for every mistake, a table
    that does not load or lost too many rows, a test that gives a wrong answer. Tables are taken one by one:
    what is wrong with one is in `Renewal.held`. `force` takes tables whatever they lost; `at_rest`: none but
    those of these resolvers, and not those either whose files change while they are loaded. What a renewal
    began is stopped again when it fails, and by the caller when it is not taken.
    """
    alone = {one.place: one for one in site.maps.steps if one.alone}
    stale = await asyncio.to_thread(lambda: [one for one in site.maps.steps if not one.is_current()])
    if document is None:
        return await _with_tables(site, alone, stale, force, at_rest)
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
    if old is new or old.rows is None or old.files != new.files:
        return None
    return loss(new, old.rows)


def loss(new: BuiltStep, had: int) -> ConfigError | None:
    """What is wrong with a table that `had` so many rows, if it lost too many of them."""
    if new.rows is None or not has_shrunk(had, new.rows, new.config.max_shrink):
        return None
    return ConfigError(f"the table has {new.rows} rows now and had {had}", path=new.config.path, hint=_FORCE)


# Tables alone


async def _with_tables(
    site: Site,
    alone: Mapping[Place, BuiltStep],
    stale: list[BuiltStep],
    force: bool,
    at_rest: AtRest | None,
) -> Renewal:
    fresh: dict[Place, BuiltStep] = {}
    unrested: set[Place] = set()
    if at_rest is not None:
        unrested = {one.place for one in stale if one.resolver not in at_rest}
        stale = [one for one in stale if one.place not in unrested]
    held: dict[Place, ConfigError] = {}
    # A group with files of its own is made anew with any other site.
    groups = {one.place for one in stale if not one.alone}
    single = [one for one in stale if one.alone]
    try:
        loaded = await asyncio.gather(*(_load(one, force, fresh) for one in single))
        held |= {one.place: error for one, error in zip(single, loaded, strict=True) if error is not None}
        if at_rest is not None:
            still = await asyncio.to_thread(lambda: [at_rest.still(one.resolver) for one in single])
            changing = {one.place for one, same in zip(single, still, strict=True) if not same}
            unrested |= changing
            held = {place: error for place, error in held.items() if place not in changing}
            await asyncio.gather(*(fresh.pop(place).stop() for place in changing & fresh.keys()))
        while fresh or groups:
            new, blamed = await _built(site, {**alone, **fresh}, fresh.keys() | groups)
            if not blamed:
                return Renewal(new, _changed(site, new), held=_all_located(site, held), unrested=unrested)
            await asyncio.gather(*(fresh.pop(place).stop() for place in blamed.keys() & fresh.keys()))
            groups -= blamed.keys()
            held |= blamed
    except BaseException:
        await asyncio.gather(*(one.stop() for one in fresh.values()))
        raise
    return Renewal(site, held=_all_located(site, held), unrested=unrested)


def _all_located(site: Site, held: Mapping[Place, ConfigError]) -> dict[Place, ConfigError]:
    return {place: located(site.document, [error]) for place, error in held.items()}


async def _load(old: BuiltStep, force: bool, fresh: dict[Place, BuiltStep]) -> ConfigError | None:
    """Put the step with its table loaded anew into `fresh`, or tell what is wrong with that."""
    try:
        new = old.again()
        await new.start()
    except ConfigError as error:
        return error
    error_of_rows = None if force else _loss(old, new)
    if error_of_rows is None:
        fresh[old.place] = new
    else:
        await new.stop()
    return error_of_rows


async def _built(
    site: Site, steps: Mapping[Place, BuiltStep], changed: Set[Place]
) -> tuple[Site, dict[Place, ConfigError]]:
    """The site made of these steps, started; and those of the `changed` ones that are to blame for what is
    wrong with it, in which case all of it that is in `steps` goes on, and the rest is stopped again."""
    new = await asyncio.to_thread(_build, site, site.document, steps)
    try:
        if new.mistakes:  # of the document, which was right
            raise ConfigErrors(new.mistakes)
        try:
            await new.maps.start(spare=steps.values())
            wrong = await fail_without_network(new, steps)
            reached = ((place, error) for error in wrong for place in _reached(new, error))
            blamed = {place: error for place, error in reached if place in changed}
        except ConfigError as error:
            blamed = dict.fromkeys(changed, error)
        if blamed:
            await new.maps.stop(but=site.maps, spare=steps.values())
    except BaseException:
        await new.maps.stop(but=site.maps)
        raise
    return new, blamed


async def fail_without_network(new: Site, steps: Mapping[Place, BuiltStep]) -> list[ConfigError]:
    """The tests that give a wrong answer, those left out that need a network: a table is not refused, and
    not taken late, because of a source that has nothing to do with it. `steps` are the started ones of the
    site that are made of nothing but their options."""
    config = new.config
    if not any(one.tests for one in config.maps.values()) and not any(one.tests for one in config.listeners):
        return []
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
