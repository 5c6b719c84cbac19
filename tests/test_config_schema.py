"""The exported JSON Schema says of a file what the structuring says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli

from tcpmapkit.config.schema import config_schema
from tcpmapkit.plugins import load_plugins

from .config_fakes import TYPES, NestsUnresolvable, Strange, Unresolvable, configure, resolver_type
from .test_config_structure import GOOD, SEVEN

SCHEMA = config_schema(TYPES)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_one_and_is_json() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_a_right_file_is_valid() -> None:
    assert list(VALIDATOR.iter_errors(tomli.loads(GOOD))) == []


@pytest.mark.parametrize(
    "text",
    [
        SEVEN,
        "[servr]",
        "[server]\nworkers = 'some'",
        "[server]\ndeadline = '5 s'",
        "[server]\ndeadline = -1",
        "[server]\nmax_connections = '5'",
        "[log]\nto = 'file'",
        "[[listeners]]\nprotocol='milter'\nmap='m'\nendpoint='inet:localhost:1'",
        "[[listeners]]\nprotocol='tcp_table'\nendpoint='inet:localhost:1'",
        "[[listeners]]\nprotocol='policy'\nendpoint='inet:localhost:1'",
        "[[listeners]]\nprotocol='socketmap'\nmap='m'\nendpoint='inet:localhost:1'",
        "[[listeners]]\nprotocol='policy'\nmap='m'\nmaps=['m']\nendpoint='inet:localhost:1'",
        "[[listeners]]\nprotocol='tcp_table'\nmap='m'\nstage='RCPT'\nendpoint='inet:localhost:1'",
        "[[listeners]]\nprotocol='policy'\nmap='m'\nmode='rw'\nendpoint='unix:x'",
        "[maps.m]\nsearch='adress'\nresolvers = [{type='nothing'}]",
        "[maps.m]",
        "[maps.m]\ncache = true\nresolvers = [{type='nothing'}]",
        "[maps.m]\nresolvers = [{type='cvs'}]",
        "[maps.m]\nresolvers = [{type='csv'}]",
        "[maps.m]\nresolvers = [{type='nothing', x=1}]",
        "[maps.m]\nresolvers = [{type='chain', resolvers=[]}]",
        "[maps.m]\nresolvers = [{type='pipe', resolvers=[{type='csv', path='x', header=1}]}]",
        "[maps.m]\nresolvers = [{type='regex', rules=[{pattern='x'}]}]",
        "[maps.m]\nresolvers = [{type='regex', engine='pcre'}]",
        "[maps.m]\nresolvers = [{type='http', url='x', max_body='1MB'}]",
        "[maps.'a b']\nresolvers = [{type='nothing'}]",
        "[maps.m]\nresolvers = [{type='nothing'}]\ntests = [{key='a', expect=true}]",
    ],
)
def test_what_the_schema_refuses_the_structuring_refuses(tmp_path: Path, text: str) -> None:
    assert not VALIDATOR.is_valid(tomli.loads(text))
    assert configure(tmp_path, text)[1] != []


@pytest.mark.parametrize("option", ["deadline", "grace"])
def test_a_duration_may_come_from_the_environment(option: str) -> None:
    assert VALIDATOR.is_valid({"server": {option: "${TIME}"}})
    assert not VALIDATOR.is_valid({"server": {option: "${time}"}})


def test_each_type_is_a_branch_with_its_name_its_options_and_their_help() -> None:
    branches = {
        branch["properties"]["type"]["const"]: branch for branch in SCHEMA["$defs"]["resolver"]["oneOf"]
    }
    assert set(branches) == set(TYPES)
    csv = branches["csv"]
    assert csv["required"] == ["type", "path"]
    assert csv["additionalProperties"] is False
    assert csv["properties"]["delimiter"] == {
        "type": "string",
        "default": ",",
        "description": "What separates.",
    }
    assert branches["pipe"]["properties"]["separator"]["description"] == "What joins."
    assert "default" not in branches["chain"]["properties"]["resolvers"]


def test_only_what_is_available_appears() -> None:
    def properties(*path: str) -> Any:
        schema = SCHEMA["properties"]
        for name in path:
            schema = schema[name]
        return schema

    shown = {
        "": properties(),
        "server": properties("server", "properties"),
        "log": properties("log", "properties"),
        "listeners": properties("listeners", "items", "properties"),
        "maps": properties("maps", "additionalProperties", "properties"),
    }
    for section, options in shown.items():
        assert section == "" or all(option.get("description") for option in options.values())
    assert shown["listeners"]["protocol"]["enum"] == ["tcp_table", "socketmap", "policy"]
    assert shown["server"]["workers"]["anyOf"] == [{"type": "integer"}, {"const": "auto"}]


@pytest.mark.parametrize("factory", [Unresolvable, Strange, NestsUnresolvable])
def test_a_type_whose_options_cannot_be_read_does_not_spoil_the_schema(factory: Any) -> None:
    schema = config_schema({"odd": resolver_type("odd", factory)})
    [branch] = schema["$defs"]["resolver"]["oneOf"]
    assert branch["properties"]["type"]["const"] == "odd"
    assert jsonschema.Draft202012Validator(schema).is_valid(
        {"maps": {"m": {"resolvers": [{"type": "odd", "x": 1}]}}}
    )


def test_no_types_give_a_schema_too() -> None:
    jsonschema.Draft202012Validator.check_schema(config_schema({}))


def test_the_options_of_every_type_that_is_installed_can_be_described() -> None:
    types = load_plugins().types
    for branch in config_schema(types)["$defs"]["resolver"]["oneOf"]:
        assert branch["additionalProperties"] is False, branch["properties"]["type"]
