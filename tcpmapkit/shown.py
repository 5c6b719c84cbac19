"""How keys are shown in the log: as a salted hash, unless ``log_keys = "full"``.

The hash is short, and the same for a key throughout a run, so that the lines about one key can be joined
and nobody is named. The salt is made when this module is imported: before a server forks its workers,
which so share it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

from tcpmapkit.query import Query

__all__ = ["Shown", "hide", "personal", "show_keys", "shown_key", "texts_of"]

Shown = Literal["hash", "full"]

_SALT: Final = os.urandom(16)

#: A key is data from a stranger: a line shows no more of it.
_MOST: Final = 320

#: What looks like an address, also in a URL. It begins where the text before it ends, so that a long text
#: without any is looked at once.
_ADDRESS: Final = re.compile(
    r"""(?:"[^"\n]{0,255}"|(?<![^\s"'<>()\[\],;:@])[^\s"'<>()\[\],;:@]+)(?:@|%40)(?:\[[^\]\s]{0,64}\]|[^\s"'<>()\[\],;:]+)""",
    re.IGNORECASE,
)

#: The attributes of a policy request (SMTPD_POLICY_README) that tell who somebody is.
_PERSONAL: Final = (
    *("sender", "recipient", "sasl_username", "sasl_sender", "etrn_domain", "helo_name"),
    *("client_address", "client_name", "reverse_client_name"),
    *("ccert_subject", "ccert_issuer", "ccert_fingerprint", "ccert_pubkey_fingerprint"),
)

_full = False


def show_keys(how: Shown) -> None:
    """How keys are shown from here on, in this process."""
    global _full
    _full = how == "full"


def shown_key(key: str) -> str:
    """A key as a log line may have it; in whichever case it was typed, the hash is the same."""
    if _full:
        return key if len(key) <= _MOST else f"{key[:_MOST]}..."
    import hashlib

    digest = hashlib.blake2b(key.casefold().encode("utf-8", "surrogatepass"), digest_size=6, key=_SALT)
    return f"#{digest.hexdigest()}"


def hide(text: str, keys: Iterable[str] = ()) -> str:
    """The text of a log line with each of `keys`, and what looks like an address, as `shown_key` has it."""
    if _full:
        return text
    wanted = {variant for key in keys if any(map(str.isalnum, key)) for variant in (key, repr(key)[1:-1])}
    if wanted:
        longest_first = "|".join(map(re.escape, sorted(wanted, key=len, reverse=True)))
        whole = rf"(?<![\w.-])(?:{longest_first})(?!\w|[.-]\w)"
        text = re.sub(whole, _shown_match, text, flags=re.IGNORECASE)
    if "@" in text or "%40" in text:
        text = _ADDRESS.sub(_shown_match, text)
    return text


def _shown_match(match: re.Match[str]) -> str:
    return shown_key(match[0])


def texts_of(query: Query) -> Iterator[str]:
    """What of a query tells who it is about, for `hide`."""
    yield from filter(None, (query.key, query.local, query.user, query.domain))
    yield from personal(query.attributes)


def personal(attributes: Mapping[str, str]) -> Iterator[str]:
    """The same of a policy request's attributes."""
    return (attributes[name] for name in _PERSONAL if attributes.get(name))
