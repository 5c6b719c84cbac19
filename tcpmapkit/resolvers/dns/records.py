"""What DNS records say, as text that Postfix can use."""

from __future__ import annotations

from typing import Any

__all__ = ["NotText", "is_referral", "negative_ttl", "texts"]


class NotText(Exception):
    """A TXT record that is not valid UTF-8."""


def texts(kind: str, records: Any, skip_invalid: bool) -> list[str]:
    """The texts of the records of type `kind`, in the order that makes the same records the same
    answer; empty for a record without a value. `skip_invalid`: so is TXT that is not UTF-8, which
    else raises `NotText`.
    """
    return [text for _, text in sorted(_ordered(kind, record, skip_invalid) for record in records)]


def _ordered(kind: str, record: Any, skip_invalid: bool) -> tuple[int, str]:
    if kind in ("A", "AAAA"):
        return 0, record.address
    if kind == "TXT":
        try:
            return 0, b"".join(record.strings).decode()
        except UnicodeDecodeError:
            if skip_invalid:
                return 0, ""
            raise NotText("a TXT record is not valid UTF-8") from None
    if kind == "MX":
        return record.preference, _host(record.exchange)
    if kind == "SRV":
        host = _host(record.target)
        return record.priority, f"{host}:{record.port}" if host else ""
    if kind == "TLSA":
        return 0, f"{record.usage} {record.selector} {record.mtype} {record.cert.hex()}"
    return 0, _host(record.target)


def _host(name: Any) -> str:
    """A name without its final dot; empty for the root."""
    text: str = name.to_text(omit_final_dot=True)
    return "" if text == "." else text


def _authority(response: Any, kind: str) -> list[Any]:
    import dns.rdatatype

    return [records for records in response.authority if dns.rdatatype.to_text(records.rdtype) == kind]


def negative_ttl(response: Any) -> float | None:
    """RFC 2308: the smaller of the SOA's TTL and its minimum, no longer than a CNAME before; None without."""
    return float(response.resolve_chaining().minimum_ttl) if _authority(response, "SOA") else None


def is_referral(response: Any) -> bool:
    """Whether a response without an answer names other servers to ask, and no SOA (RFC 2308, section 2.2)."""
    return not _authority(response, "SOA") and bool(_authority(response, "NS"))
