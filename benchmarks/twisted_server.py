"""Twisted's PostfixTCPMapServer with its dictionary factory; prints its port."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed
from twisted.protocols.postfix import PostfixTCPMapDictServerFactory

from benchmarks.data import rows


def main() -> None:
    reactor: Any = installed
    factory = PostfixTCPMapDictServerFactory({key.encode(): value.encode() for key, value in rows()})
    print(reactor.listenTCP(0, factory, backlog=1024, interface="127.0.0.1").getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
