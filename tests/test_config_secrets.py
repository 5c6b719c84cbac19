# ruff: noqa: E501  (an error is one line)
"""``${NAME}`` and secrets: put in where they belong, and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpmapkit import ConfigError
from tcpmapkit.config import locate, read_document, structure
from tcpmapkit.config.masking import Secret, Secrets, sounds_secret
from tcpmapkit.errors import ConfigErrors
from tcpmapkit.template import Template

from .config_fakes import TYPES, Pin, configure, mistakes, resolver_type

STEP = "[maps.m]\n[[maps.m.resolvers]]\n"


def test_a_variable_is_put_into_any_string(tmp_path: Path) -> None:
    text = (
        "[plugins]\ndirectory = '${BASE}/plugins'\n[[listeners]]\nprotocol='${P}'\nendpoint='inet:${HOST}:1'\nmap='m'\n"
        + STEP
        + "type='http'\nurl='https://${HOST}/{key}'\npassword='${TOKEN}'\nwait='${WAIT}'\njson={a=['${TOKEN}']}\n"
        "timeout='${WAIT}'\n"
    )
    environ = {"BASE": "/srv", "P": "tcp_table", "HOST": "localhost", "TOKEN": "hunter2!", "WAIT": "2s"}
    config, errors = configure(tmp_path, text, environ)
    assert errors == []
    assert config.plugins.directory == Path("/srv/plugins")
    assert str(config.listeners[0].endpoint) == "inet:localhost:1"
    step = config.maps["m"].resolvers[0]
    assert step.timeout == 2.0
    assert step.options == {
        "url": "https://localhost/{key}",
        "password": "hunter2!",
        "wait": 2.0,
        "json": {"a": ["hunter2!"]},
    }
    assert "hunter2" not in repr(config)


def test_dollars_that_are_no_variable_stay_and_so_do_the_rules_of_regex_steps(tmp_path: Path) -> None:
    text = (
        "[maps.m]\nresolvers=[{type='regex', rules=[{pattern='${HOME}', result='$1 ${1} ${HOME}'}]},"
        "{type='nothing', name='$1 $$ ${1} ${} $HOME ${home} ${A-B} $'}]"
    )
    config, errors = configure(tmp_path, text, {"HOME": "/root"})
    assert errors == []
    regex, other = config.maps["m"].resolvers
    assert regex.options["rules"][0].result == "$1 ${1} ${HOME}"
    assert other.name == "$1 $$ ${1} ${} $HOME ${home} ${A-B} $"


def test_a_variable_that_is_not_set_is_told_once_where_it_is_written(tmp_path: Path) -> None:
    text = (
        STEP + "type='csv'\npath='${NOT_THERE}/x'\n[[maps.m.resolvers]]\ntype='http'\nurl='u'\n"
        "anything=[{a='${NOR_THIS}'}]\nwait='${GONE}'\n[[maps.m.resolvers]]\ntype='regex'\nengine='${ENGINE}'\n"
    )
    config, errors = configure(tmp_path, text)
    assert [(error.line, error.message) for error in errors] == [
        (4, "${NOT_THERE} is not set in the environment"),
        (8, "${NOR_THIS} is not set in the environment"),
        (9, "${GONE} is not set in the environment"),
        (12, "${ENGINE} is not set in the environment"),
    ]
    assert config.maps["m"].resolvers == ()
    assert str(errors[0]).endswith("\n       |      ^")


def test_a_variable_that_is_empty_is_set(tmp_path: Path) -> None:
    config, errors = configure(tmp_path, STEP + "type='http'\nurl='a${E}b'\n", {"E": ""})
    assert errors == []
    assert config.maps["m"].resolvers[0].options["url"] == "ab"


def test_braces_from_the_environment_are_text_in_a_template_and_nowhere_else(tmp_path: Path) -> None:
    text = STEP + "type='http'\nurl='x${T}{key}'\npassword='${T}'\njson={a='${T}'}\nresult='{value}${T}'\n"
    config, errors = configure(tmp_path, text, {"T": "{key}}"})
    assert errors == []
    step = config.maps["m"].resolvers[0]
    assert Template.compile(step.options["url"]).parts[0] == "x{key}}"
    assert step.result == "{value}{{key}}}}"
    assert step.options["json"] == {"a": "{{key}}}}"}
    assert step.options["password"] == "{key}}"


VALUE = "hunter2!"


@pytest.mark.parametrize(
    "text",
    [
        "[server]\ndeadline = '${S}'\nloop = '${S}'\n[log]\nlevel = 'x${S}'",
        "[[listeners]]\nprotocol='${S}'\nendpoint='inet:${S}:1'\nmap='${S}'\nallow=['${S}']",
        "[[listeners]]\nprotocol='tcp_table'\nendpoint='${S}'\nmap='m'",
        "[maps.m]\nrecipient_delimiter='${S} '\nresolvers='${S}'",
        STEP + "type='${S}'",
        STEP + "type='csv'\npath='${S}'\ndelimiter='${S}'\nkey_column='${S}'\nheader='${S}'",
        STEP + "type='regex'\nengine='${S}'",
        STEP + "type='http'\nurl='${S}'\nmax_body='${S}'\nwait='${S}'\nnot_found=['${S}']\ntimeout='${S}'",
        STEP + "type='http'\nurl=1\npassword='${S}${S}${S}'",
        STEP + "type='http'\nurl=1\npassword='hunter2!hunter2!hunter2!'",
        STEP + "type='http'\nurl=1\n'password'=\"\\u0068unter2!\"\nx=1",
        STEP + "type='http'\nurl=1\npassword='''\nhunter2!\n'''",
        "[maps.m]\nresolvers=[{type='http', password='hunter2!', url=1, ratio=true}]",
        STEP + "type='http'\nurl=1\npasword='hunter2!'\nclient_secret='hunter2!'\nAPI_KEY=['hunter2!']",
        STEP + "type='http'\nurl=1\nparams={Authorization='hunter2!', x=1}",
        STEP + "type='unknown'\npassword='hunter2!'\n",
        "[maps.m]\nresolvers=[{type='unknown', password='hunter2!'}]",
        "[maps.m]\nresolvers=[{type=1, password='hunter2!'}]",
        "[maps.m]\npassword='hunter2!'",
        "[maps.m]\nresolvers=[{type='http', url='https://joe:hunter2!@api.example.org/{kee}', ratio=true}]",
        STEP + "type='http'\nurl='https://:hunter2!@api.example.org/x'\non_error='http://joe:hunter2!@x'",
    ],
)
def test_a_secret_is_in_no_error_and_in_no_repr(tmp_path: Path, text: str) -> None:
    config, errors = configure(tmp_path, text, {"S": VALUE})
    assert errors
    shown = "\n".join(map(str, errors)) + "".join(map(repr, errors)) + repr(config)
    assert "unter2" not in shown


def test_a_misspelt_secret_option_is_not_shown_either(tmp_path: Path) -> None:
    _, errors = configure(tmp_path, STEP + "type='http'\nurl='u'\npaswort='hunter2!'\n")
    assert [error.hint for error in errors] == ["did you mean 'password'?"]
    assert "unter2" not in str(errors[0])


@pytest.mark.parametrize(
    "content",
    [
        "a = = 1 password = 'hunter2!'",
        "password = 'hunter2!\n",
        "x = 1\ntoken = 'hunter2!' 'x'\n",
        "url = 'https://joe:hunter2!@api.example.org/\n",
    ],
)
def test_a_secret_is_not_shown_with_a_syntax_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(content)
    with pytest.raises(ConfigErrors) as caught:
        read_document(file)
    assert "hunter2" not in str(caught.value)
    assert caught.value.errors[0].source is not None


def test_the_caret_stands_right_behind_a_masked_secret(tmp_path: Path) -> None:
    text = "[maps.m]\nresolvers=[{type='http', password='hunter2!', url=1}]"
    _, errors = configure(tmp_path, text)
    line, caret = str(errors[0]).splitlines()[1:]
    assert line[caret.index("^")] == "1"
    assert "password=**********, url" in line


def test_later_phases_do_not_show_a_secret_either(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(
        STEP + "type='csv'\npath='${S}'\n[maps.x]\nresolvers=[{type='http',url='u',password='swordfish'}]"
    )
    document = read_document(file)
    config, errors = structure(document, TYPES, {"S": VALUE})
    assert errors == []
    password = config.maps["x"].resolvers[0].options["password"]
    assert (password, repr(password), type(password)) == ("swordfish", "'***'", Secret)
    error = ConfigError(
        "cannot read HUNTER2!, 'hunter2!' or swordfish",
        hint="swordfish?",
        path=("maps", "m", "resolvers", 0, "path"),
    )
    assert "unter2" not in str(locate(document, error)).lower()
    assert "swordfish" not in str(error) + repr(error)


def test_a_short_secret_is_hidden_as_a_word_and_leaves_other_words_readable() -> None:
    secrets = Secrets()
    secrets.add("1")
    secrets.add(" ")
    assert secrets.hide("line 12, column 1: 1 is too low") == "line 12, column ***: *** is too low"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("password", True),
        ("client_secret", True),
        ("Authorization", True),
        ("api-key", True),
        ("X-Auth-Token", True),
        ("token_file", False),
        ("key", False),
        ("key_column", False),
        ("path", False),
        (3, False),
    ],
)
def test_names_that_sound_secret(name: object, secret: bool) -> None:
    assert sounds_secret(name) is secret


def test_the_error_for_a_wrong_value_from_the_environment_says_where_it_came_from(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "[server]\ndeadline = '${D}'", {"D": "99s"}) == [
        "2:12: server.deadline: the value from the environment is refused"
    ]
    assert mistakes(tmp_path, "[server]\ndeadline = '${D}'", {"D": "9 s"}) == [
        '2:12: server.deadline: the value from the environment is not a duration (such as "300ms", "5s", "2m", "1h", "7d")'
    ]


def test_a_secret_stays_hidden_when_an_error_was_located_before_the_structuring(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text("[maps.m]\nresolvers=[{type='http', url=1, pin='hunter2!'}]\n")
    document = read_document(file)
    locate(document, ConfigError("early", path=("maps", "m")))
    _, errors = structure(document, {"http": resolver_type("http", Pin)}, {})
    assert [error.path[-1] for error in errors] == ["url"]
    assert "unter2" not in str(errors[0])
