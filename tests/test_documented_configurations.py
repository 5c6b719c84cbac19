"""Every TOML block of the documents loads, and its ``[[maps.X.tests]]`` give what they say.

Blocks that are files are written first; ``http`` blocks are what an API on the loopback answers, ``zone``
blocks what a DNS server there does.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import dns.message
import jsonschema
import pytest
import tomli
from aiohttp import web

from tcpmapkit.build import build_maps
from tcpmapkit.config import plugins_config, read_document, structure
from tcpmapkit.config.schema import config_schema
from tcpmapkit.plugins import BUILT_IN, load_plugins
from tcpmapkit.testing import started_file
from tests.documents import DOCUMENTS, TOP, Block, blocks, write_files
from tests.loopback_dns import SOA, Reply, loopback_dns, reply
from tests.loopback_http import loopback_api

API = "https://accounts.example.com"

BLOCKS = [block for document in DOCUMENTS for block in blocks(document, "toml")]

#: Examples that are files of their own; those in a directory of their own are run by test_examples.py.
FILES = [TOP / "tcpmapkit.toml", *sorted(TOP.glob("examples/plugins/*.toml"))]


def prepare(block: Block, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration in a directory with all that it reads."""
    write_files(block.document, directory)
    monkeypatch.syspath_prepend(str(directory))
    for module in directory.glob("*.py"):
        monkeypatch.delitem(sys.modules, module.stem, raising=False)
    for variable in re.findall(r"\$\{([A-Z_]+)\}", block.text):
        monkeypatch.setenv(variable, "from the environment")
    file = directory / "tcpmapkit.toml"
    file.write_text(block.text, encoding="utf-8")
    return file


def foreign_types(text: str) -> set[str]:
    """The types in a configuration that come from packages."""
    found: set[str] = set(re.findall(r'^type = "([\w-]+)"', text, re.MULTILINE))
    return found - set(BUILT_IN) if "directory =" not in text else set()


def api(document: Path) -> Callable[[web.BaseRequest], web.StreamResponse]:
    """What the ``http`` blocks of the document answer, 404 for everything else."""
    answers = {}
    for block in blocks(document, "http"):
        for exchange in block.text.split("\n\n"):
            request, _, body = exchange.strip().partition("\n")
            answers[request] = body

    def answer(request: web.BaseRequest) -> web.StreamResponse:
        body = answers.get(f"{request.method} {request.raw_path}")
        if body is None:
            return web.Response(status=404)
        return web.Response(text=body, content_type="application/json")

    return answer


def zone(document: Path) -> Callable[[dns.message.Message, bool], Reply]:
    """What the ``zone`` blocks of the document hold, NXDOMAIN for everything else."""
    lines = [line for block in blocks(document, "zone") for line in block.text.splitlines()]

    def answer(request: dns.message.Message, tcp: bool) -> Reply:
        question = request.question[0]
        wanted = [line for line in lines if line.split()[0].lower() == question.name.to_text().lower()]
        if wanted:
            return reply(request, wanted)
        return reply(request, authority=[SOA], rcode="NXDOMAIN")

    return answer


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_valid_by_the_schema_and_can_be_built(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = read_document(prepare(block, tmp_path, monkeypatch))
    wanted = plugins_config(document)
    plugins = load_plugins(wanted.directory)
    if not foreign_types(block.text) <= set(plugins.types):
        pytest.skip(f"not installed: {', '.join(sorted(foreign_types(block.text)))}")
    config, errors = structure(document, plugins.types)
    maps, more = build_maps(config, plugins)
    assert [*errors, *more] == []
    assert set(maps.maps) == set(config.maps)
    jsonschema.Draft202012Validator(config_schema(plugins.types)).validate(tomli.loads(block.text))


@pytest.mark.parametrize("block", [block for block in BLOCKS if not foreign_types(block.text)], ids=str)
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_every_block_starts_and_answers_what_it_says(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = prepare(block, tmp_path, monkeypatch)
    async with AsyncExitStack() as stack:
        text = block.text
        if API in text:
            text = text.replace(API, (await stack.enter_async_context(loopback_api(api(block.document)))).url)
        if 'type = "dns"' in text:
            server = await stack.enter_async_context(loopback_dns(zone(block.document)))
            text = text.replace('type = "dns"', f'type = "dns"\nnameservers = ["{server.nameserver}"]')
        file.write_text(text, encoding="utf-8")
        maps = await stack.enter_async_context(started_file(file))
        assert set(maps) == set(tomli.loads(text).get("maps", {}))


def test_blocks_with_types_of_a_package_are_run_by_that_packages_own_tests() -> None:
    for block in BLOCKS:
        if foreign_types(block.text):
            package = block.document.parent
            assert (package / "pyproject.toml").exists(), block
            assert "toml_blocks(README)" in (package / "tests" / "test_readme.py").read_text(), block


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TOP)))
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_every_example_file_is_valid_by_the_schema_and_answers_what_it_says(file: Path) -> None:
    data = tomli.loads(file.read_text(encoding="utf-8"))
    directory = data.get("plugins", {}).get("directory")
    types = load_plugins(file.parent / directory if directory else None).types
    schema = json.loads(json.dumps(config_schema(types)))
    jsonschema.Draft202012Validator(schema).validate(data)
    assert any("tests" in one for one in data["maps"].values())
    async with started_file(file) as maps:
        assert set(maps) == set(data["maps"])


def test_every_example_is_used_by_a_configuration_or_a_document() -> None:
    texts = [file.read_text(encoding="utf-8") for file in (*FILES, *DOCUMENTS)]
    for file in TOP.glob("examples/**/*"):
        if file.is_dir() or "__pycache__" in file.parts or file.suffix in (".toml", ".cf"):
            continue
        named = str(file.relative_to(TOP))
        beside = [one.read_text(encoding="utf-8") for one in file.parent.glob("*.toml")]
        assert any(named in text for text in texts) or any(file.name in text for text in beside), named
