"""One table, two programs: what ``tcpmapkit query`` prints is what the real ``postmap -q`` prints.

The resolvers' own tests compare every corner of their formats; here the whole command is compared,
folding, special keys and refusals included.
"""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpmapkit.cli import main
from tests.real_postfix import Postfix

words = st.sampled_from(
    ["info", "Info", "a.b", "x+ext", "postmaster", "example.org", "EXAMPLE.org", "üser", "-", "a"]
)
domains = st.sampled_from(["example.org", "Example.ORG", "example.net", "[192.0.2.1]", "bücher.example"])
addresses = st.builds("{}@{}".format, words, domains)
networks = st.sampled_from(
    ["192.0.2.0/24", "192.0.2.128/25", "192.0.2.7", "0.0.0.0/0", "2001:db8::/32", "2001:db8:1::/48", "::1"]
)
hosts = st.sampled_from(["192.0.2.7", "192.0.2.200", "198.51.100.1", "2001:db8:1::5", "2001:db8::", "::1"])
keys = st.one_of(words, domains, addresses, hosts, st.sampled_from(["*", "<>", '""']))
results = st.sampled_from(
    ["OK", "REJECT go away", "a@example.org, b@example.org", "smtp:[mail.example.org]", "ü"]
)
comments = st.sampled_from(["# a comment", "", "   "])

file_rows = st.builds("{} {}".format, st.one_of(words, addresses), results)
cidr_rows = st.builds("{}{} {}".format, st.sampled_from(["", "", "!"]), networks, results)
patterns = st.sampled_from(
    [
        r"^info@", r"@example\.org$", r"^(.+)@(.+)$", r"^[a-z.]+@", r"b|c", r"^$", r".", r"(ex)(am)?",
        r"^x\+", r"\.org", r"^(a|info)\.?(b)?", r"[0-9]+", r"^a*b?",
    ]
)  # fmt: skip
rule_results = st.one_of(results, st.sampled_from(["$1", "${1}-x", "$$1", "<$(1)>"]))
flags = st.sampled_from(["", "", "", "i"])
rules = st.builds("{}/{}/{} {}".format, st.sampled_from(["", "", "", "!"]), patterns, flags, rule_results)
conditions = st.builds(
    lambda pattern, inside: f"if /{pattern}/\n{inside}\nendif",
    patterns,
    st.lists(rules, max_size=3).map("\n".join),
)


def table_of(row: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lines = st.lists(st.one_of(row, row, row, comments), min_size=1, max_size=12)
    return lines.map(lambda rows: "\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("map_type", "step", "rows"),
    [
        ("texthash", 'type = "file"', file_rows),
        ("cidr", 'type = "cidr"', cidr_rows),
        ("pcre", 'type = "regex"', st.one_of(rules, conditions)),
        ("regexp", 'type = "regex"\nsyntax = "regexp"', st.one_of(rules, conditions)),
    ],
)
def test_a_generated_table_gives_the_same_answers(
    postfix: Postfix,
    tmp_path_factory: pytest.TempPathFactory,
    map_type: str,
    step: str,
    rows: st.SearchStrategy[str],
) -> None:
    directory = tmp_path_factory.mktemp(map_type)
    (directory / "tcpmapkit.toml").write_text(f'[maps.m]\n[[maps.m.resolvers]]\n{step}\npath = "table"\n')

    @settings(max_examples=30, deadline=None, database=None)
    @given(text=table_of(rows), asked=st.lists(keys, min_size=1, max_size=15, unique=True))
    def same(text: str, asked: list[str]) -> None:
        (directory / "table").write_text(text)
        lines = "".join(f"{key}\n" for key in asked).encode()
        theirs = postfix.postmap("-q", "-", f"{map_type}:{directory / 'table'}", input=lines)
        ours = CliRunner().invoke(
            main,
            ["query", "-c", str(directory / "tcpmapkit.toml"), "m", "-"],
            input=lines,
            catch_exceptions=False,
        )
        assert ours.stdout_bytes == theirs.stdout, (text, asked, ours.stderr, theirs.stderr)
        assert ours.exit_code == theirs.returncode

    same()
