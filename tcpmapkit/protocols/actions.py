"""What smtpd(8) does with the action that a policy request is answered, in a few words.

Source: access(5) and check_table_result() of smtpd_check.c, in its order. Case and the text behind the
first word make no difference to which action it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["NO_ACTION", "is_none", "smtpd_does"]

NO_ACTION: Final = "DUNNO"
"""The action that is none."""

_GOES_ON: Final = "goes on with the next restriction"
_ACCEPTS: Final = "accepts, and skips the rest of this list of restrictions"

_WORDS: Final[Mapping[str, str]] = {
    NO_ACTION: f"{_GOES_ON}, as if nothing had been found",
    "REJECT": "rejects for good ($access_map_reject_code, 5xx)",
    "DEFER": "rejects for now ($access_map_defer_code, 4xx)",
    "INFO": f"logs the text and {_GOES_ON}",
    "WARN": f"logs the text as a warning and {_GOES_ON}",
    "FILTER": f"sends the message through this content filter, if it is accepted; {_GOES_ON}",
    "HOLD": f"puts the message on hold, if it is accepted; {_GOES_ON}",
    "DISCARD": "accepts the message and throws it away, for all of its recipients",
    "REDIRECT": f"sends the message to this address instead, if it is accepted; {_GOES_ON}",
    "BCC": f"sends a copy to this address, if the message is accepted; {_GOES_ON}",
    "DEFER_IF_PERMIT": f"{_GOES_ON}, and what none of them rejects is rejected for now (4xx)",
    "DEFER_IF_REJECT": f"{_GOES_ON}, and what one of them rejects is rejected for now only (4xx)",
    "PREPEND": f"puts this header on top of the message; {_GOES_ON}",
    "OK": _ACCEPTS,
    "RELAY": _ACCEPTS,
}

_CODE: Final = re.compile(r"([45])[0-9]{2}[ \t]")
_HANGS_UP: Final = ("421", "521")


def is_none(action: str) -> bool:
    """Whether Postfix takes the action for none: `NO_ACTION`, whatever text is behind it."""
    return _word(action) == NO_ACTION


def smtpd_does(action: str) -> str:
    """What becomes of the SMTP command, or of the message, that the request was about."""
    word = _word(action)
    if word in _WORDS:
        return _WORDS[word]
    if re.fullmatch("[0-9]+", action):
        return f"{_ACCEPTS}: that is what a number alone means"
    code = _CODE.match(action)
    if code is not None:
        ends = " and hangs up" if action[:3] in _HANGS_UP else ""
        return f"rejects {'for now' if code[1] == '4' else 'for good'} with this code{ends}"
    if ":" in action:
        return "rejects for now (451) as misconfigured: no such action, and no tables here"
    return "takes it for restrictions such as permit or reject; if they are none, rejects for now (451)"


def _word(action: str) -> str:
    return re.split(r"[ \t]", action, maxsplit=1)[0].upper()
