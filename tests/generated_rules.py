"""Random pcre_table(5) and regexp_table(5) texts, and keys that their patterns may match."""

from __future__ import annotations

from random import Random

__all__ = ["key", "pattern", "table"]

# Words with a case, with other cases in Unicode than in ASCII, and the places where a match hangs.
_WORDS = [
    *(
        "a",
        "b",
        "ab",
        "foo",
        "bar",
        "Foo",
        "example",
        "org",
        "@",
        "k",
        "s",
        "i",
        "é",
        "\u212a",
        "\u017f",
        "\u0131",
    ),
    *(".", "-", "1", "shop", "x", "@example", r"\.org", "_", "12"),
]
_PERL = [
    *(_WORDS * 3),
    *(
        "[ab]",
        "[^a]",
        "[a-c]",
        "[A-Z]",
        "[kK]",
        "[!A]",
        r"[^\x00-\x40\x43-\xff]",
        "[[:alpha:]]",
        "[[:upper:]]",
    ),
    *(
        ".",
        r"\d",
        r"\w",
        r"\W",
        r"\s",
        r"\b",
        r"\h",
        r"\N",
        r"\R",
        r"\x61",
        r"\.",
        r"\@",
        r"\t",
        r"\1",
        r"\K",
    ),
    *("^", "$", r"\A", r"\z", r"\Z", "(?i)", "(?-i)", "(?s)", "(?=a)", "(?!foo)", "(?<=a)", "(?<!b)"),
    *(r"\Qa.b\E", r"\Qfoo", r"\QB+\E", r"\E", r"\Q\E", "(?x)", "(?-x)", "(?x: a b)", r"[\Qab\E]"),
    *("(?#c)", "(*UTF)", "(?i:foo)", "(?-i:Foo)", "(?>ab|a)", "{", "}", "]", "#", " "),
]
_POSIX = [
    *(_WORDS * 3),
    *("[ab]", "[^a]", "[[:alpha:]]", "[[:upper:]]", "[[=a=]]", ".", r"\w", r"\.", "^", "$", r"\<", r"\>"),
    *(r"\b", r"\d", r"\A", r"(a)\1"),
]
_REPEATS = [*[""] * 12, "*", "+", "?", "{2}", "{1,2}", "{0}", "{2,}", "*?", "+?", "?+", "*+", "++", "{2}{2}"]
_OPENINGS = {
    "pcre": ["(", "(", "(?:", "(?=", "(?!", "(?<=", "(?<n>", "(?i:", "(?x:", "(?-x:", "(?>"],
    "regexp": ["("],
}
_PIECES = [
    *(
        "a",
        "b",
        "ab",
        "foo",
        "bar",
        "FOO",
        "Example",
        "org",
        "@",
        "k",
        "K",
        "\u212a",
        "s",
        "\u017f",
        "\u0131",
        "I",
        "i",
    ),
    *(".", "-", "1", "shop", "x", "@example", ".org", "@Example.ORG", "é", "É", "_", "12", " ", "!", "a.b"),
]


def pattern(random: Random, syntax: str, depth: int = 0) -> str:
    """One pattern."""
    parts = []
    for _ in range(random.randint(1, 4)):
        if depth > 2 or random.random() < 0.75:
            parts.append(random.choice(_PERL if syntax == "pcre" else _POSIX))
        else:
            options = [pattern(random, syntax, depth + 1) for _ in range(random.randint(1, 3))]
            parts.append(f"{random.choice(_OPENINGS[syntax])}{'|'.join(options)})")
        parts.append(random.choice(_REPEATS))
    return "".join(parts)


def table(random: Random, syntax: str, most: int) -> str:
    """Up to so many lines; each rule has a result of its own."""
    lines: list[str] = []
    depth = 0
    for number in range(random.randint(1, most)):
        text = pattern(random, syntax)
        if syntax == "pcre" and random.random() < 0.1:
            text = f"(*UTF){text}"
        flags = "".join(
            random.sample("imsxAEU" if syntax == "pcre" else "imx", random.choice([0, 0, 0, 1, 2]))
        )
        written = f"{random.choice(['', '', '', '', '!'])}/{text}/{flags}"
        kind = random.random()
        if kind < 0.14:
            lines.append(f"if {written}")
            depth += 1
        elif kind < 0.24 and depth:
            lines.append("endif")
            depth -= 1
        elif kind < 0.3 and syntax == "regexp":
            lines.append(f"/{text}/{flags}!/{pattern(random, syntax)}/ answer{number}")
        else:
            lines.append(f"{written} answer{number}")
    return "\n".join([*lines, *["endif"] * depth, ""])


def key(random: Random) -> str:
    """A key made of what the patterns are made of."""
    return "".join(random.choice(_PIECES) for _ in range(random.randint(0, 7)))
