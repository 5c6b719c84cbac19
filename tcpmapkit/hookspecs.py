"""The hooks: every place where a plugin can take part. These docstrings are the reference manual.

A plugin is a module with functions marked `hookimpl` and named like the hooks below; each takes
those of the hook's arguments that it wants, by name and without defaults (pluggy never overrides
the default of an implementation's argument).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import pluggy

from tcpmapkit.query import Miss, Outcome, Query

__all__ = ["PROJECT", "Register", "hookimpl", "hookspec"]

#: The name of the pluggy project and of the entry-point group.
PROJECT = "tcpmapkit"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """What `register_resolvers` is given: call it once for each resolver type."""

    def __call__(
        self,
        name: str,
        factory: Any,
        *,
        folded: bool = True,
        partial_keys: bool = True,
        special_keys: bool = False,
        in_memory: bool = False,
        attributes: Iterable[str] = (),
    ) -> None:
        """Make a resolver type available to ``type = "name"`` in the configuration.

        :param name: the type's name, for the whole configuration.
        :param factory: a class, or a callable that returns an object, with a ``resolve(query)``.
            Its attrs fields (a callable's parameters) are the type's TOML options.
        :param folded: it gets the key in lower case, unless the map says ``fold = false``.
        :param partial_keys: it is asked the partial keys of a search order too.
        :param special_keys: it is asked ``*``, ``<>``, ``""`` and the empty key.
        :param in_memory: it answers from memory, the same until reloaded.
        :param attributes: the policy attributes that it reads; ``"*"`` for any of them.
        """


@hookspec
def register_resolvers(register: Register) -> None:
    """Called once, when plugins are loaded: offer resolver types by calling `register`.

    :param register: see `Register`. A name that is taken is an error naming both distributions.
    """


@hookspec(firstresult=True)
def resolve(query: Query) -> Outcome | Miss | None:
    """Answer one query. Implemented by the steps of a map's chain, never by a plugin module.

    A resolver object's own ``resolve(query)`` needs no marker; its step, which the core makes from
    a line of TOML, is what is registered. ``tryfirst``, ``trylast`` and wrappers are refused, since
    the order is the operator's.

    :param query: what is asked; see `tcpmapkit.Query`.
    :return: an outcome, or a miss (None or `Miss`) to let the next step be asked.
    """


@hookspec
def query_resolved(query: Query, outcome: Outcome, resolver: str, elapsed: float) -> None:
    """Called after every lookup, cache hits included, for those who count or watch.

    It runs in the serving thread, so it must not block, and it cannot change the outcome. While
    any plugin implements it, the shortest way of answering from the cache is not taken.

    :param query: the query as it came from Postfix.
    :param outcome: what the map answered; of a failure a policy listener tells its default action.
    :param resolver: the name of the step that answered, ``"cache"`` for a cached answer, ``""``
        when every step missed.
    :param elapsed: seconds from the request to the outcome.
    """


@hookspec
def startup(config: Any) -> None:
    """Called once by ``tcpmapkit run``, when every table is loaded and before the first connection.

    :param config: the whole configuration, frozen (`tcpmapkit.config.Config`).
    """


@hookspec
def shutdown() -> None:
    """Called once by ``tcpmapkit run``, after the last connection is closed."""
