"""Templates: text and variables, nothing evaluated."""

from __future__ import annotations

from typing import Any

import pytest

from tcpmapkit.errors import ConfigError
from tcpmapkit.keys import split_address
from tcpmapkit.query import Query
from tcpmapkit.template import KEY_VARIABLES, JsonTemplate, Template, Variable

RESULT_VARIABLES = (*KEY_VARIABLES, "value")


def about(key: str, **attributes: str) -> Query:
    return Query(key, attributes=attributes, split=split_address)


@pytest.mark.parametrize(
    ("text", "key", "filled"),
    [
        ("{key}", "Joe+x@example.org", "Joe+x@example.org"),
        ("{local}/{user}/{extension}/{domain}", "joe+x@example.org", "joe+x/joe/x/example.org"),
        ("plain", "anything", "plain"),
        ("", "anything", ""),
        ("{{key}}", "k", "{key}"),
        ("{{{key}}}", "k", "{k}"),
        ("}}{{", "k", "}{"),
        ("{key}{key}", "k", "kk"),
        ("{local}", '"john doe"@example.org', "john doe"),
        ("{key}", "", ""),
        ("[{key}]", "", "[]"),
        ("{extension}", "joe@example.org", None),
        ("{extension}", "joe+@example.org", None),
        ("{domain}", "joe", None),
        ("{domain}", "joe@", None),
        ("{user}", "@example.org", None),
        ("{local}", "", None),
        ("{key}", "{key} ${HOME} {0} {domain} %s \\1 $1", "{key} ${HOME} {0} {domain} %s \\1 $1"),
        ("$1 $$ {key}", "k", "$1 $$ k"),
    ],
)
def test_a_template_is_filled_from_the_key_and_misses_without_a_part(
    text: str, key: str, filled: str | None
) -> None:
    assert Template.compile(text)(about(key)) == filled


def test_a_template_gives_its_parts_to_whoever_treats_each_variable_in_its_own_way() -> None:
    template = Template.compile("{user}.x.{domain}{helo_name}", (*KEY_VARIABLES, "helo_name"))
    assert list(template.texts(about("joe", helo_name="mx.example.org"))) == [
        ("user", "joe"),
        (None, ".x."),
        ("domain", None),
        ("helo_name", "mx.example.org"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "lone '{'"),
        ("a}b", "lone '}'"),
        ("{key", "lone '{'"),
        ("{nope}", "unknown variable {nope}"),
        ("{}", "unknown variable {}"),
        ("{domian}", "did you mean {domain}?"),
        ("{key!r}", "unknown variable {key!r}"),
        ("{key.__class__}", "unknown variable"),
        ("{value}", "unknown variable {value}"),
        ("${1}", "unknown variable {1}"),
    ],
)
def test_a_bad_template_is_a_configuration_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Template.compile(text)
    assert message in str(caught.value)


def test_request_attributes_are_variables_where_they_are_offered() -> None:
    template = Template.compile("{sender}", (*KEY_VARIABLES, "sender"))
    assert template(about("k", sender="a@example.org")) == "a@example.org"
    assert template(about("k", sender="")) is None
    assert template(about("k")) is None


def test_variables_are_quoted_and_literal_text_is_not() -> None:
    template = Template.compile("/x y/{local}/{domain}")
    assert template(about("a b@c"), lambda text: text.replace(" ", "%20")) == "/x y/a%20b/c"


def test_a_template_shows_what_it_is_made_of() -> None:
    template = Template.compile("https://{domain}/{{x}}/{user}")
    assert template.constant == "https://"
    assert template.variables == {"domain", "user"}
    assert template.parts == ("https://", Variable("domain"), "/{x}/", Variable("user"))
    assert Template.compile("{key}").constant == ""


@pytest.mark.parametrize(
    ("text", "key", "value", "result"),
    [
        ("{value}", "k", "v", "v"),
        ("<{value}>", "k", "v", "<v>"),
        ("{value}", "k", "", None),
        ("{local}@example.net", "joe@example.org", "v", "joe@example.net"),
        ("{local}@{value}", '"john doe"@example.org', "example.net", '"john doe"@example.net'),
        ("{user}+{extension}@example.net", "joe+x@example.org", "v", "joe+x@example.net"),
        # The localpart that the template makes is quoted as one: RFC 5322 knows no other way.
        ("{user}+{extension}@example.net", '"john doe+x"@example.org', "v", '"john doe+x"@example.net'),
        ("{user}+{extension}@example.net", '"joe+a,b@c"@example.org', "v", '"joe+a,b@c"@example.net'),
        ("{extension}@example.net", '"joe+a, root"@example.org', "v", '"a, root"@example.net'),
        ("{user}@example.net", '"joe."@example.org', "v", '"joe."@example.net'),
        ("x-{user}@example.net", '"a b"@example.org', "v", '"x-a b"@example.net'),
        ("./{user}/", "joe@example.org", "v", "./joe/"),
        ("REJECT {user}, {value}", '"a b"@example.org', "v", 'REJECT "a b", v'),
        ("{local}", '"a\\"b"@example.org', "v", '"a\\"b"'),
        ("{extension}", "joe@example.org", "v", None),
        ("{domain}", "joe", "v", None),
        ("{key} {value}", "", "v", " v"),
        ("{value}", "k", "{key} {value}", "{key} {value}"),
    ],
)
def test_a_result_has_its_localparts_quoted(text: str, key: str, value: str, result: str | None) -> None:
    assert Template.compile(text, RESULT_VARIABLES).result(about(key), value) == result


def test_a_json_template_fills_strings_and_leaves_the_rest() -> None:
    template = JsonTemplate.compile({"a": ["{user}", 1, None, True], "{key}": {"b": "x{{{domain}}}"}})
    assert template.variables == {"user", "domain"}
    assert template(about("joe@example.org")) == {
        "a": ["joe", 1, None, True],
        "{key}": {"b": "x{example.org}"},
    }


def test_a_json_template_without_one_of_its_parts_is_nothing() -> None:
    assert JsonTemplate.compile({"a": {"b": ["{domain}"]}})(about("joe")) is None


@pytest.mark.parametrize(
    ("value", "path"),
    [("{x}", ()), ({"a": "{x}"}, ("a",)), ({"a": [0, "{x}"]}, ("a", 1)), (["ok", {"b": "{"}], (1, "b"))],
)
def test_a_mistake_in_a_json_template_is_located(value: Any, path: tuple[str | int, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        JsonTemplate.compile(value)
    assert caught.value.path == path
