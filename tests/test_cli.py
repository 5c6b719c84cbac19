"""The commands, as an operator types them: what they print where, and their exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tcpmapkit.cli import main

SITE = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:4242"
map = "aliases"

[maps.aliases]
[[maps.aliases.resolvers]]
type = "csv"
path = "aliases.csv"

[[maps.aliases.tests]]
key = "Info@Example.org"
expect = "alice@example.org"

[maps.failing]
[[maps.failing.resolvers]]
type = "static"
entries = { known = "value" }
[[maps.failing.resolvers]]
type = "python"
callable = "failing_source:ask"
inline = true
"""

FAILING_SOURCE = """
from tcpmapkit import LookupPermFail, LookupTempFail
def ask(key):
    raise LookupPermFail("no such table") if key == "permanently" else LookupTempFail("source is down")
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "aliases.csv").write_text("from,to\ninfo@example.org,alice@example.org\nü@example.org,ö\n")
    (tmp_path / "failing_source.py").write_text(FAILING_SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(SITE)
    return file


def tcpmapkit(*args: str | Path, given: bytes = b"") -> Result:
    return CliRunner().invoke(main, [str(one) for one in args], input=given, catch_exceptions=False)


@pytest.mark.parametrize(
    ("map_name", "key", "status", "stdout", "stderr"),
    [
        ("aliases", "info@example.org", 0, "alice@example.org\n", ""),
        ("aliases", "INFO@EXAMPLE.ORG", 0, "alice@example.org\n", ""),
        ("aliases", "ü@example.org", 0, "ö\n", ""),
        ("aliases", "nobody@example.org", 1, "", ""),
        ("aliases", "", 1, "", ""),
        ("failing", "known", 0, "value\n", ""),
        ("failing", "other", 75, "", "source is down\n"),
        ("failing", "permanently", 75, "", "no such table\n"),
    ],
)
def test_query_prints_the_value_and_tells_the_outcome_by_its_status(
    site: Path, map_name: str, key: str, status: int, stdout: str, stderr: str
) -> None:
    result = tcpmapkit("query", "-c", site, map_name, key)
    assert (result.exit_code, result.stdout, result.stderr) == (status, stdout, stderr)


@pytest.mark.parametrize(
    ("map_name", "given", "status", "stdout"),
    [
        ("aliases", b"a\nInfo@example.org\nb\n", 0, "Info@example.org\talice@example.org\n"),
        ("aliases", b"a\nb", 1, ""),
        ("aliases", b"\xff\ninfo@example.org\n", 0, "info@example.org\talice@example.org\n"),
        ("failing", b"other\nknown\n", 75, "known\tvalue\n"),
        ("aliases", b"", 1, ""),
    ],
)
def test_query_reads_keys_from_standard_input_and_asks_every_one(
    site: Path, map_name: str, given: bytes, status: int, stdout: str
) -> None:
    result = tcpmapkit("query", "-c", site, map_name, "-", given=given)
    assert (result.exit_code, result.stdout) == (status, stdout)


def test_explain_shows_steps_outcome_reply_bytes_and_what_postfix_does(site: Path) -> None:
    result = tcpmapkit("query", "-c", site, "--explain", "failing", "Other Key")
    lines = result.stdout.splitlines()
    assert result.exit_code == 75
    assert "key\t'Other Key'" in lines
    assert any(re.fullmatch(r"step 1\tstatic\tasked 'other key'\tmiss\t.* ms", line) for line in lines)
    assert any("python\tasked 'other key'\ttemporary failure: source is down" in line for line in lines)
    assert r"reply	tcp_table	'400 source%20is%20down\n'" in lines
    assert lines[-1].startswith("Postfix\tdefers the mail")


def test_an_unknown_map_is_wrong_usage_with_a_suggestion(site: Path) -> None:
    result = tcpmapkit("query", "-c", site, "alias", "key")
    assert result.exit_code == 2
    assert "did you mean 'aliases'?" in result.stderr


def test_check_loads_every_table_and_runs_the_tests(site: Path) -> None:
    result = tcpmapkit("check", "-c", site)
    assert result.exit_code == 0
    assert "1 test passed" in result.stderr
    assert result.stdout == ""


def test_check_tells_what_the_resolvers_note(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    rules = "".join(f"{{ pattern = '^user{number}@', result = 'x' }}, " for number in range(5))
    file.write_text(f"""[maps.m]
resolvers = [{{ type = "regex", rules = [{rules} {{ pattern = '^.@', result = 'x' }}] }}]
""")
    result = tcpmapkit("check", "-c", file)
    assert result.exit_code == 0
    note = "1 of the 6 rules requires no text of a key, and is tried for every one"
    assert f"note: map m: {note}\n" in result.stderr


def test_check_refuses_a_wrong_answer_with_its_place(site: Path) -> None:
    site.write_text(site.read_text().replace('expect = "alice@example.org"', "expect = false"))
    result = tcpmapkit("check", "-c", site)
    assert result.exit_code == 78
    assert f"{site}:14:10: maps.aliases.tests[0].expect:" in result.stderr


def test_check_only_warns_of_a_test_whose_lookup_fails(site: Path) -> None:
    with site.open("a") as file:
        file.write('[[maps.failing.tests]]\nkey = "other"\nexpect = "value"\n')
    result = tcpmapkit("check", "-c", site)
    assert result.exit_code == 0
    assert "warning:" in result.stderr
    assert "could not be looked up: source is down" in result.stderr


def test_check_offline_leaves_out_what_would_ask_a_network(site: Path) -> None:
    with site.open("a") as file:
        file.write(
            """
[maps.remote]
[[maps.remote.resolvers]]
type = "static"
entries = { near = "here" }
[[maps.remote.resolvers]]
type = "http"
url = "http://127.0.0.1:1/"
params = { key = "{key}" }
on_error = "ignore"
[[maps.remote.tests]]
key = "near"
expect = "here"
[[maps.remote.tests]]
key = "far"
expect = "away"
[[maps.remote.tests]]
key = "Far"
expect = "away"
[maps.nearer]
[[maps.nearer.resolvers]]
type = "map"
map = "remote"
on_error = "ignore"
[[maps.nearer.resolvers]]
type = "static"
value = "not asked for"
[[maps.nearer.tests]]
key = "far"
expect = "away"
"""
        )
    result = tcpmapkit("check", "-c", site, "--offline")
    assert result.exit_code == 0, result.stderr
    assert "2 tests passed, 3 left out (offline)" in result.stderr


def test_every_table_that_does_not_load_is_told_at_once(site: Path) -> None:
    site.write_text(
        site.read_text()
        + '\n[maps.one]\n[[maps.one.resolvers]]\ntype = "file"\npath = "gone"\n'
        + '[maps.two]\n[[maps.two.resolvers]]\ntype = "cidr"\npath = "gone too"\n'
    )
    result = tcpmapkit("check", "-c", site)
    assert result.exit_code == 78
    assert "maps.one.resolvers[0]" in result.stderr
    assert "maps.two.resolvers[0]" in result.stderr


MISTAKES = """
[server]
deadlin = "5s"
max_connections = "many"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:port"
map = "aliases"

[[maps.aliases.resolvers]]
type = "regx"

[[maps.aliases.resolvers]]
type = "regex"
rules = [{ pattern = "/(unclosed/", result = "x" }]

[[maps.aliases.resolvers]]
type = "static"
on_error = "nxt"
value = "x"

[maps.other]
cache = { ttl = "5 parsecs" }
[[maps.other.resolvers]]
type = "static"
value = "{x}"
result = "{valu}"
"""


def run_command(*args: str | Path, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from tcpmapkit.cli import main; main()", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_a_configuration_with_many_mistakes_tells_all_of_them_and_exits_78(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(MISTAKES)
    done = run_command("run", "-c", file)
    assert done.returncode == 78
    located = re.findall(rf"^{re.escape(str(file))}:(\d+):\d+: ([\w.\[\]]+): ", done.stderr, re.MULTILINE)
    assert [path for _, path in located] == [
        "server.deadlin",
        "server.max_connections",
        "listeners[0].endpoint",
        "maps.aliases.resolvers[0].type",
        "maps.aliases.resolvers[1].rules[0].pattern",
        "maps.aliases.resolvers[2].on_error",
        "maps.other.cache.ttl",
        "maps.other.resolvers[0].result",
    ]
    assert "Traceback" not in done.stderr
    assert done.stderr.count("^") >= 8
    assert "did you mean 'regex'?" in done.stderr


def test_a_missing_file_exits_78_without_a_traceback(tmp_path: Path) -> None:
    done = run_command("check", "-c", tmp_path / "none.toml")
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
    assert "none.toml" in done.stderr


def test_no_configuration_anywhere_exits_78(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tcpmapkit.site.DEFAULT_FILES", (Path("tcpmapkit.toml"),))
    result = tcpmapkit("check")
    assert result.exit_code == 78
    assert "-c FILE" in result.stderr


def test_check_tells_wrong_options_and_tables_that_do_not_load_together(site: Path) -> None:
    site.write_text(
        site.read_text()
        + '\n[maps.one]\n[[maps.one.resolvers]]\ntype = "file"\npath = "gone"\n'
        + '[[maps.one.resolvers]]\ntype = "static"\nvalu = "x"\n'
    )
    result = tcpmapkit("check", "-c", site)
    assert result.exit_code == 78
    assert "maps.one.resolvers[1].valu: unknown key" in result.stderr
    assert f"maps.one.resolvers[0].path: cannot read {site.parent / 'gone'}: " in result.stderr


def test_run_refuses_a_file_without_listeners(site: Path) -> None:
    site.write_text(
        site.read_text()[site.read_text().index("[maps.aliases]") :].replace(
            "failing_source:ask", "json:loads"
        )
    )
    done = run_command("run", "-c", site)
    assert done.returncode == 78
    assert "no [[listeners]]" in done.stderr


def test_a_mistake_that_only_running_shows_is_told_with_its_place(site: Path) -> None:
    text = site.read_text()[: site.read_text().index("[maps.failing]")].replace("4242", "0")
    site.write_text('[server]\nuser = "nobody-of-that-name"\n' + text)
    done = run_command("run", "-c", site)
    assert done.returncode == 78
    assert f"{site}:2:8: server.user: there is no user 'nobody-of-that-name'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_in_use_is_one_line_and_status_1(site: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        site.write_text(
            site.read_text().replace("4242", str(port)).replace('"failing_source:ask"', '"json:loads"')
        )
        done = run_command("run", "-c", site)
    lines = [line for line in done.stderr.splitlines() if "WARNING" not in line]
    assert done.returncode == 1
    assert len(lines) == 1
    assert f"inet:127.0.0.1:{port}" in lines[0]


#: A plugin whose hooks go together, and resolvers that do not start.
HALF_STARTED = """
import asyncio
from tcpmapkit import hookimpl

opened = []

@hookimpl
def startup(config):
    opened.append(config)

@hookimpl
def shutdown():
    opened.pop()

class Endless:
    async def start(self, context):
        print("starting", flush=True)
        await asyncio.Event().wait()
    def resolve(self, query):
        return None

class Leaves(Endless):
    async def start(self, context):
        raise SystemExit(3)

@hookimpl
def register_resolvers(register):
    register("endless", Endless)
    register("leaves", Leaves)
"""


def half_started(tmp_path: Path, kind: str, port: int = 0) -> Path:
    directory = tmp_path / "plugins"
    directory.mkdir(mode=0o700)
    (directory / "half.py").write_text(HALF_STARTED)
    (directory / "half.py").chmod(0o600)
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(
        f"""
[plugins]
directory = "plugins"
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:{port}"
map = "m"
[maps.m]
resolvers = [{{ {kind} }}]
"""
    )
    return file


def test_a_server_that_did_not_start_calls_no_plugins_shutdown(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file = half_started(tmp_path, 'type = "static", value = "x"', taken.getsockname()[1])
        done = run_command("run", "-c", file)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_resolver_that_would_end_the_process_is_a_mistake_with_its_place(tmp_path: Path) -> None:
    done = run_command("run", "-c", half_started(tmp_path, 'type = "leaves"'))
    assert done.returncode == 78
    assert "maps.m.resolvers[0]: could not start: SystemExit: 3" in done.stderr


def test_a_start_that_does_not_end_is_stopped_by_sigterm(tmp_path: Path) -> None:
    file = half_started(tmp_path, 'type = "endless"')
    with subprocess.Popen(
        [sys.executable, "-c", "from tcpmapkit.cli import main; main()", "run", "-c", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "starting\n"
        server.send_signal(signal.SIGTERM)
        try:
            stdout, stderr = server.communicate(timeout=10)
        finally:
            server.kill()
        assert (server.returncode, stdout) == (0, "")
        assert "Traceback" not in stderr


def test_run_serves_says_what_to_put_in_main_cf_and_stops_on_sigterm(site: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site.write_text(
        site.read_text().replace("4242", str(port)).replace('"failing_source:ask"', '"json:loads"')
    )
    with subprocess.Popen(
        [sys.executable, "-c", "from tcpmapkit.cli import main; main()", "run", "-c", str(site)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line == (
            f"inet:127.0.0.1:{port} serves aliases; in main.cf: virtual_alias_maps = tcp:127.0.0.1:{port}\n"
        )
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"get info@example.org\n")
            assert client.recv(100) == b"200 alice@example.org\n"
        server.send_signal(signal.SIGTERM)
        _, stderr = server.communicate(timeout=20)
    assert server.returncode == 0
    assert "Traceback" not in stderr


def test_plugins_lists_every_type_with_its_properties() -> None:
    result = tcpmapkit("plugins")
    assert result.exit_code == 0
    rows = {row[0]: row for row in (line.split("\t") for line in result.stdout.splitlines())}
    assert rows["csv"][1] == "tcpmapkit"
    assert rows["csv"][3] == "tcpmapkit.resolvers.csv"
    assert rows["csv"][4] == "folded partial_keys special_keys in_memory"
    assert rows["cidr"][4] == "special_keys in_memory"


def test_plugins_shows_a_broken_one_with_its_reason_and_exits_0(tmp_path: Path) -> None:
    drop_in = tmp_path / "plugins"
    drop_in.mkdir(mode=0o755)
    (drop_in / "broken.py").write_text("import no_such_module\n")
    file = tmp_path / "tcpmapkit.toml"
    file.write_text('[plugins]\ndirectory = "plugins"\n')
    result = tcpmapkit("plugins", "-c", file)
    assert result.exit_code == 0
    assert (
        "broken\tbroken.py\t-\tbroken\tModuleNotFoundError: No module named 'no_such_module'" in result.stdout
    )


def test_a_broken_plugin_is_fatal_only_when_its_type_is_used(tmp_path: Path) -> None:
    drop_in = tmp_path / "plugins"
    drop_in.mkdir(mode=0o755)
    (drop_in / "broken.py").write_text("raise RuntimeError('half installed')\n")
    file = tmp_path / "tcpmapkit.toml"
    file.write_text('[plugins]\ndirectory = "plugins"\n[[maps.x.resolvers]]\ntype = "static"\nvalue = "y"\n')
    result = tcpmapkit("check", "-c", file)
    assert result.exit_code == 0
    assert "half installed" in result.stderr
    file.write_text(file.read_text().replace('type = "static"\nvalue = "y"', 'type = "theirs"'))
    result = tcpmapkit("check", "-c", file)
    assert result.exit_code == 78
    assert "unknown resolver type 'theirs'" in result.stderr
    assert "half installed" in result.stderr


def test_postfix_config_prints_the_line_of_each_listener_and_the_refusing_parameters(site: Path) -> None:
    result = tcpmapkit("postfix-config", "-c", site)
    assert result.exit_code == 0
    assert "virtual_alias_maps = tcp:127.0.0.1:4242" in result.stdout.splitlines()
    assert "alias_maps: local(8) refuses" in result.stdout


@pytest.mark.parametrize(
    ("name", "endpoint", "line"),
    [
        ("aliases", "inet:127.0.0.1:1", "virtual_alias_maps = tcp:127.0.0.1:1"),
        ("clients", "inet:[::1]:1", "smtpd_client_restrictions = check_client_access tcp:[::1]:1"),
        ("transport", "inet:127.0.0.1:1", "transport_maps = tcp:127.0.0.1:1"),
        ("x", "inet:0.0.0.0:1", "virtual_alias_maps = tcp:127.0.0.1:1"),
        ("relay_recipient_maps", "inet:127.0.0.1:1", "relay_recipient_maps = tcp:127.0.0.1:1"),
        ("virtual_mailbox_domains", "inet:127.0.0.1:1", "virtual_mailbox_domains = tcp:127.0.0.1:1"),
    ],
)
def test_the_main_cf_line_fits_the_map_and_the_address(
    tmp_path: Path, name: str, endpoint: str, line: str
) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(
        f'[[listeners]]\nprotocol = "tcp_table"\nendpoint = "{endpoint}"\nmap = "{name}"\n'
        f'allow = ["192.0.2.0/24"]\n[[maps.{name}.resolvers]]\ntype = "static"\nvalue = "y"\n'
    )
    assert line in tcpmapkit("postfix-config", "-c", file).stdout.splitlines()


def test_schema_is_json() -> None:
    result = tcpmapkit("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["type"] == "object"


def test_a_query_of_tables_imports_no_slow_library(site: Path) -> None:
    """Start-up time, by what is imported and not by the clock."""
    script = (
        "import sys\nfrom tcpmapkit.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "query", "-c", str(site), "aliases", "info@example.org"],
        capture_output=True,
        text=True,
        cwd=site.parent,
        env={"PYTHONPATH": f"{site.parent}:{Path(__file__).parent.parent}", "PATH": "/usr/bin:/bin"},
        timeout=30,
        check=False,
    )
    assert done.stdout == "alice@example.org\n"
    slow = {"rich", "uvloop", "aiohttp", "dns", "jmespath", "watchfiles", "prometheus_client"}
    assert slow & set(done.stderr.split()) == set()


@pytest.mark.parametrize("step", ['type = "file"', 'type = "csv"', 'type = "cidr"', 'type = "regex"'])
def test_a_fifo_as_a_table_is_refused_and_not_waited_for(tmp_path: Path, step: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(f'[maps.m]\n[[maps.m.resolvers]]\n{step}\npath = "fifo"\n')
    done = run_command("check", "-c", file)
    assert done.returncode == 78
    assert f"{file}:4:8: maps.m.resolvers[0].path: {tmp_path}/fifo is not a regular file" in done.stderr


def test_a_fifo_as_a_secret_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(
        '[maps.m]\n[[maps.m.resolvers]]\ntype = "http"\nurl = "http://127.0.0.1/{key}"\ntoken_file = "fifo"\n'
    )
    done = run_command("check", "-c", file)
    assert done.returncode == 78
    assert "not a regular file" in done.stderr


def test_a_table_that_cannot_be_read_is_told_at_its_line_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text('[maps.m]\n[[maps.m.resolvers]]\ntype = "file"\npath = "none"\n')
    result = tcpmapkit("check", "-c", file)
    assert result.exit_code == 78
    assert f"{file}:4:8: maps.m.resolvers[0].path: cannot read {tmp_path}/none: No such file" in result.stderr
    assert "^" in result.stderr


def test_check_warns_of_a_user_that_this_machine_does_not_have(site: Path) -> None:
    site.write_text('[server]\nuser = "no-such-user"\n' + site.read_text())
    result = tcpmapkit("check", "-c", site)
    assert result.exit_code == 0
    assert "server.user: there is no user 'no-such-user'" in result.stderr


def test_run_says_which_port_the_system_chose(site: Path) -> None:
    text = site.read_text().replace("4242", "0").replace("failing_source:ask", "json:loads")
    site.write_text(text)
    with subprocess.Popen(
        [sys.executable, "-c", "from tcpmapkit.cli import main; main()", "run", "-c", str(site)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        match = re.match(
            r"inet:127\.0\.0\.1:(\d+) serves aliases; .* tcp:127\.0\.0\.1:(\d+)\n", server.stdout.readline()
        )
        server.terminate()
    assert match is not None
    assert match[1] == match[2] != "0"
