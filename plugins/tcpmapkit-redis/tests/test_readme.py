"""The README is the manual page: it has its sections, every option, and examples that work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import attrs
import pytest
import redis
import tcpmapkit_redis
from tcpmapkit_redis import Redis

from tcpmapkit.plugins import load_plugins
from tcpmapkit.testing import started_file, toml_blocks
from tests.real_redis import RedisServer

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_the_readme_has_the_sections_of_a_manual_page() -> None:
    assert re.findall(r"^## (.*)$", TEXT, re.MULTILINE) == [
        "NAME",
        "DESCRIPTION",
        "OPTIONS",
        "EXAMPLES",
        "BUGS",
    ]


@pytest.mark.parametrize(
    "field", [field for field in attrs.fields(Redis) if field.init], ids=lambda field: field.name
)
def test_every_option_is_documented_with_its_default(field: attrs.Attribute[object]) -> None:
    options = TEXT.partition("## OPTIONS")[2].partition("## EXAMPLES")[0]
    assert field.metadata["help"]
    assert f"`{field.name}" in options
    if isinstance(field.default, int | str):
        assert re.search(rf'`{field.name} = "?{re.escape(str(field.default))}"?`', options)


@pytest.mark.parametrize("number", range(3))
async def test_the_examples_answer_what_they_say(
    number: int, redis_server: RedisServer, store: redis.Redis, tmp_path: Path
) -> None:
    blocks = toml_blocks(README)
    assert len(blocks) == 3
    (data,) = re.findall(r"^```redis\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    for line in data.splitlines():
        store.execute_command(*shlex.split(line))
    (tmp_path / "redis-password").write_text("secret\n")
    text = blocks[number].replace('"redis-password"', f'"{tmp_path}/redis-password"')
    if "url =" not in text:
        text = text.replace('type = "redis"', f'type = "redis"\nurl = "{redis_server.url}"')
    async with started_file(text, plugins=[tcpmapkit_redis]) as maps:
        assert maps


def test_the_entry_point_offers_the_type() -> None:
    types = load_plugins().types
    if "redis" not in types:
        pytest.skip("tcpmapkit-redis is not installed")
    assert (types["redis"].distribution, types["redis"].factory) == ("tcpmapkit-redis", Redis)
