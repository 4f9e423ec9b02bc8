"""Settings: where they come from, and what is said of those that cannot be used."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection

from oops_celery.errors import SettingsError
from oops_celery.settings import (
    DEFAULT_BROKER_URL,
    Settings,
    broker,
    hide_password,
    load,
    parse_rabbitmq_url,
)
from tests.support import environment


@pytest.fixture
def celeryconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Write a celeryconfig.py into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "celeryconfig", raising=False)

    def write(text: str) -> None:
        (tmp_path / "celeryconfig.py").write_text(text)

    yield write
    sys.modules.pop("celeryconfig", None)


def test_the_defaults(celeryconfig: Callable[[str], None]) -> None:
    assert load({}) == Settings()
    assert broker({}, {})["broker_url"] == DEFAULT_BROKER_URL


def test_only_names_with_the_prefix_count(celeryconfig: Callable[[str], None]) -> None:
    celeryconfig(
        "OOPS_WORKER_CONCURRENCY = 3\nOOPS_REPOSITORY = '/srv/oopses'\n"
        "OOPS_BROKER_URL = 'amqp://here/'\nworker_concurrency = 9\n"
        "BROKER_URL = 'redis://'\nsomething = 1\nimport os\n"
    )
    settings = load({})
    assert settings.repository == "/srv/oopses"
    assert settings.celery["worker_concurrency"] == 3
    assert broker(settings.celery, {})["broker_url"] == "amqp://here/"
    assert settings.ignored == ("worker_concurrency", "BROKER_URL")


def test_the_environment_comes_first(celeryconfig: Callable[[str], None]) -> None:
    celeryconfig("OOPS_MAX_RETRIES = 3\nOOPS_BROKER_URL = 'amqp://file/'\n")
    environ = {
        "OOPS_MAX_RETRIES": "5",
        "OOPS_WORKER_CONCURRENCY": "7",
        "RABBITMQ_URL": "amqp://environment/",
        "RABBITMQ_HEARTBEAT": "11",
        "OOPS_OF_SOMEBODY_ELSE": "ignored",
    }
    settings = load(environ)
    assert settings.max_retries == 5
    assert settings.celery["worker_concurrency"] == 7
    connection = broker(settings.celery, environ)
    assert connection["broker_url"] == "amqp://environment/"
    assert connection["broker_heartbeat"] == 11


def test_empty_in_the_environment_is_not_set(
    celeryconfig: Callable[[str], None],
) -> None:
    celeryconfig("OOPS_MAX_RETRIES = 3\nOOPS_ROUTING_KEY = 'key'\n")
    own = [f"OOPS_{name.upper()}" for name in Settings.__dataclass_fields__]
    celerys = ["OOPS_WORKER_CONCURRENCY", "OOPS_WORKER_POOL", "OOPS_BROKER_URL"]
    others = ["RABBITMQ_URL", "RABBITMQ_HEARTBEAT", "CELERY_CONFIG_MODULE"]
    empty = dict.fromkeys([*own, *celerys, *others], "")
    # Of a routing key and of an exchange it is a value.
    expected = Settings(max_retries=3, routing_key="", exchange="")
    assert load(empty) == expected
    assert broker(load(empty).celery, empty) == broker({}, {})


def test_no_celeryconfig_where_its_name_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({"CELERY_CONFIG_MODULE": ""}) == Settings()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OOPS_MAX_RETRIES": "-1"}, "OOPS_MAX_RETRIES='-1' (environment): must be"),
        ({"OOPS_MAX_SIZE": "big"}, "OOPS_MAX_SIZE='big' (environment): must be"),
        ({"OOPS_PUBLISH_TIMEOUT": "0"}, "a number of seconds over 0"),
        ({"OOPS_PUBLISH_TIMEOUT": "nan"}, "a number of seconds over 0"),
        ({"OOPS_CONFIG": "module"}, "package.module:attribute"),
        ({"OOPS_EXCHANGE": "x" * 256}, "at most 255 bytes"),
        ({"OOPS_WORKER_CONCURRENCY": "many"}, "OOPS_WORKER_CONCURRENCY='many'"),
        ({"OOPS_BROKER_TRANSPORT_OPTIONS": "{"}, "or JSON"),
        ({"RABBITMQ_HEARTBEAT": "soon"}, "RABBITMQ_HEARTBEAT='soon'"),
        ({"CELERY_CONFIG_MODULE": "not_there"}, "CELERY_CONFIG_MODULE='not_there'"),
    ],
)
def test_a_value_that_cannot_be_used(
    celeryconfig: Callable[[str], None], environ: dict[str, str], expected: str
) -> None:
    with pytest.raises(SettingsError) as error:
        broker(load(environ).celery, environ)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OOPS_TOPOLGY = 'x'", "did you mean OOPS_TOPOLOGY?"),
        ("OOPS_WORKER_CONCURENCY = 1", "did you mean OOPS_WORKER_CONCURRENCY?"),
        ("OOPS_MAX_RETRIES = 1.5", "OOPS_MAX_RETRIES=1.5 (celeryconfig)"),
        ("OOPS_MAX_RETRIES = True", "OOPS_MAX_RETRIES=True (celeryconfig)"),
        ("OOPS_REPOSITORY = None", "OOPS_REPOSITORY=None (celeryconfig)"),
        ("OOPS_CONFIG = 5", "OOPS_CONFIG=5 (celeryconfig)"),
        ("import no_such_module", "there is no module 'no_such_module'"),
        ("raise RuntimeError('x')", "celeryconfig.py cannot be read: RuntimeError: x"),
        ("def broken(:", "celeryconfig.py cannot be read: SyntaxError"),
    ],
)
def test_a_celeryconfig_that_cannot_be_used(
    celeryconfig: Callable[[str], None], text: str, expected: str
) -> None:
    celeryconfig(text)
    with pytest.raises(SettingsError) as error:
        load({})
    assert expected in str(error.value)


def test_a_misspelt_name_in_the_environment_is_said(
    celeryconfig: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    celeryconfig("")
    load({"OOPS_TOPOLGY": "x", "OOPS_OF_SOMEBODY_ELSE": "y"})
    (record,) = caplog.records
    assert "OOPS_TOPOLGY: there is no such setting; did you mean OOPS_TOPOLOGY?" in (
        record.getMessage()
    )


@pytest.mark.parametrize("text", ["foo", "Prefork"])
def test_a_pool_that_there_is_not(
    celeryconfig: Callable[[str], None], text: str
) -> None:
    celeryconfig("")
    with pytest.raises(SettingsError, match=f"OOPS_WORKER_POOL='{text}': must be one"):
        load({"OOPS_WORKER_POOL": text})


def test_hosts_are_tried_in_random_order() -> None:
    url = "amqp://user:p%40ss@one:1,two,[::1]:3/vhost"
    expected = {
        "amqp://user:p%40ss@one:1/vhost",
        "amqp://user:p%40ss@two:5672/vhost",
        "amqp://user:p%40ss@[::1]:3/vhost",
    }
    firsts = set()
    for _ in range(100):
        urls = parse_rabbitmq_url(url)["broker_url"]
        assert set(urls) == expected
        firsts.add(urls[0])
    assert firsts == expected


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        # kombu would go on to the second one with the port of the first.
        ("one:1111,two", {"one:1111", "two:5672"}),
        # As amqp-dispatcher had it.
        ("one,two:5673", {"one:5673", "two:5673"}),
        ("one,two", {"one:5672", "two:5672"}),
        ("one:1,two,three:3", {"one:1", "two:5672", "three:3"}),
        ("[::1],two:3", {"[::1]:3", "two:3"}),
    ],
)
def test_the_port_of_each_host(hosts: str, expected: set[str]) -> None:
    urls = parse_rabbitmq_url(f"amqp://u:p@{hosts}/v")["broker_url"]
    assert set(urls) == {f"amqp://u:p@{each}/v" for each in expected}


def test_the_port_of_each_host_with_tls() -> None:
    urls = parse_rabbitmq_url("amqps://one:1111,two/")["broker_url"]
    assert set(urls) == {"amqps://one:1111/", "amqps://two:5671/"}


def test_what_amqp_dispatcher_took_in_a_url(caplog: pytest.LogCaptureFixture) -> None:
    url = "amqp://u:s3cr3t@h/?heartbeat=None&socket_timeout=5"
    parsed = parse_rabbitmq_url(url)
    assert parsed["broker_url"] == "amqp://u:s3cr3t@h/"
    assert "broker_heartbeat" not in parsed
    assert "unknown parameter 'socket_timeout'" in caplog.text
    assert "it is left out" in caplog.text
    assert "s3cr3t" not in caplog.text


HOSTS = [
    "one",
    "ONE.example:1",
    "one.example.",
    "rabbit_1",
    "[::1]",
    "[fe80::1%eth0]:3",
]
#: Letters, and each kind of character that means something to somebody.
PARTS = st.text(alphabet="aZ9é€ ;:@/?#[]%+&=,|$'\"\\\n~.", min_size=1)


def connection(url: str | list[str]) -> Any:
    """Return a URL as kombu reads it, when it connects, and when it changes hosts."""
    made = Connection(url)
    for one in made.alt:
        made.switch(one)
    copy = made.clone()
    assert copy.info() == made.info()
    return copy


@given(
    user=PARTS,
    password=PARTS,
    vhost=PARTS,
    hosts=st.lists(st.sampled_from(HOSTS), min_size=1),
)
def test_every_character_reaches_the_broker(
    user: str, password: str, vhost: str, hosts: list[str]
) -> None:
    encoded = [quote(part, safe="") for part in (user, password, vhost)]
    url = "amqp://{}:{}@{hosts}/{}".format(*encoded, hosts=",".join(hosts))
    broker_url = parse_rabbitmq_url(url)["broker_url"]
    seen = connection(broker_url)
    assert (seen.userid, seen.password) == (user, password)
    assert seen.virtual_host == vhost
    assert len(seen.alt or [url]) == len(hosts)


#: What a URL may hold as it is: RFC 3986, section 3.2.1; and what others write there.
AS_THEY_ARE = st.text(alphabet="aé;:+&=,|$'~.!*()", min_size=1)


@given(password=AS_THEY_ARE, vhost=AS_THEY_ARE)
def test_what_is_not_encoded_is_read_as_it_is(password: str, vhost: str) -> None:
    broker_url = parse_rabbitmq_url(f"amqp://user:{password}@host/{vhost}")
    seen = connection(broker_url["broker_url"])
    assert (seen.password, seen.virtual_host) == (password, vhost)


@given(
    password=PARTS, rest=st.sampled_from(["@h", "@h/v", "@h:x", "@[h", "@", "", "/v"])
)
def test_nothing_is_shown_of_a_password(password: str, rest: str) -> None:
    """Whatever it has, raw: each part that is long enough to tell is looked for."""
    marked = f"s3{password}cr3t"
    for start in ("amqp://user:", "amqps://:", "user:", "amqp:user:", "amqp:/user:"):
        url = f"{start}{marked}{rest}"
        try:
            said = parse_rabbitmq_url(url) and ""
        except SettingsError as error:
            said = str(error)
        if rest.startswith("@"):  # else the password's own @ is before the host
            assert "s3" not in hide_password(url) + said
            assert "cr3t" not in hide_password(url) + said
        elif "@" not in password:
            assert "cr3t" not in hide_password(url)


def test_the_hosts_of_one_address() -> None:
    for host in HOSTS:
        parsed = parse_rabbitmq_url(f"amqp://{host}")
        assert parsed["broker_url"] == f"amqp://{host}/"


def test_heartbeat_and_tls_are_said_in_the_url(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    parsed = parse_rabbitmq_url(f"amqps://h/?heartbeat=30&cacertfile={ca}")
    assert parsed["broker_heartbeat"] == 30
    assert parsed["broker_use_ssl"] == {
        "cert_reqs": ssl.CERT_REQUIRED,
        "ca_certs": str(ca),
    }
    unverified = parse_rabbitmq_url("amqps://h/?verify=verify_none")
    assert unverified["broker_use_ssl"] == {"cert_reqs": ssl.CERT_NONE}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:5672", "must start with amqp:// or amqps://"),
        ("redis://u:s3cr3t@h/", "must start with amqp:// or amqps://"),
        ("amqp://", "host '': must be a host name"),
        ("amqp://u:s3cr3t@one,,two/", "host '': must be a host name"),
        ("amqp://u:s3cr3t@one:port/", "host 'one:port'"),
        ("amqp://u:s3cr3t@one:99999/", "host 'one:99999'"),
        ("amqp://u:s3cr3t@one:0/", "host 'one:0'"),
        ("amqp://u:s3cr3t@[::1/", "host '[::1'"),
        ("amqp://u:s3cr3t@[::1]x/", "host '[::1]x'"),
        ("amqp://u:s3cr3t@[one]/", "host '[one]'"),
        ("amqp://u:s3cr3t@::1/", "host '::1'"),
        ("amqp://u:s3cr3t@a..b/", "host 'a..b'"),
        ("amqp://u:s3cr3t@h/%ff", "the virtual host is not UTF-8"),
        ("amqp://u:s3cr3t%ff@h/", "the password is not UTF-8"),
        ("amqp://u%00:s3cr3t@h/", "the user has a NUL character"),
        ("amqp://u:s3cr3t@h/" + 128 * "é", "has 256 bytes; AMQP has place for 255"),
        ("amqp://u:s3cr3t@h/v#w", "write %2F"),
        ("amqp://u:12?s3cr3t", "unknown parameter '**'"),
        ("s3cr3t", "must start with amqp:// or amqps://"),
        ("amqp://u:s3cr3t@h/?heartbeat=often", "heartbeat='often'"),
        ("amqp://u:s3cr3t@h/?heartbeat=-1", "heartbeat='-1'"),
        ("amqp://u:s3cr3t@h/?hartbeat=1", "unknown parameter 'hartbeat'"),
        ("amqp://u:s3cr3t@h/?verify=verify_peer", "unknown parameter 'verify'"),
        ("amqps://u:s3cr3t@h/?verify=no", "verify='no'"),
        ("amqps://u:s3cr3t@h/?cacertfile=/not/there", "'/not/there': no file"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, expected: str) -> None:
    """The error says why, and never the password."""
    with pytest.raises(SettingsError) as error:
        parse_rabbitmq_url(url)
    assert expected in str(error.value)
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "pyamqp://user:s3c/ret@host/",
        "redis://:s3c?ret@host",
        "redis://a;redis://:s3c#ret@host",
        ["amqp://a/", "amqp://user:s3c/ret@host/"],
        "redis://[::1:s3c/ret@host",
    ],
)
def test_nothing_is_shown_of_a_password_in_another_url(url: str | list[str]) -> None:
    with pytest.raises(SettingsError, match=r"OOPS_BROKER_URL=.*%2F") as error:
        broker({"broker_url": url}, {})
    assert "s3c" not in str(error.value)


def test_celerys_name_of_the_broker_is_read_as_ours() -> None:
    url = "amqp://u:s3;cr3t@one,two/v;w"
    urls = broker({"broker_url": url}, {})["broker_url"]
    assert set(urls) == {
        f"amqp://u:s3%3Bcr3t@{host}:5672/v%3Bw" for host in ("one", "two")
    }
    assert broker({"broker_url": "memory://"}, {}) == {"broker_url": "memory://"}
    with pytest.raises(SettingsError, match="OOPS_BROKER_URL='amqp://") as error:
        broker({"broker_url": "amqp://u:s3cr3t@one//;amqp://u:s3cr3t@two//"}, {})
    assert "s3cr3t" not in str(error.value)


@given(st.text() | st.text().map(lambda text: f"amqp://{text}"))
def test_no_url_gives_another_error(url: str) -> None:
    try:
        parse_rabbitmq_url(url)
    except SettingsError:
        pass


def test_an_application_and_its_celeryconfig_are_left_alone(tmp_path: Path) -> None:
    """Both read the same file, and neither disturbs the other."""
    (tmp_path / "celeryconfig.py").write_text(
        "broker_url = 'memory://app'\ntask_default_queue = 'app'\n"
        "OOPS_BROKER_URL = 'amqp://oops/'\n"
    )
    program = """
import celery, oops_celery
mine = celery.Celery("mine")
mine.config_from_object("celeryconfig")
oops_celery.publisher
print(celery.current_app == mine, mine.conf.broker_url, mine.conf.task_default_queue)
app = oops_celery.app
print(app.connection_for_write().as_uri(), app.conf.task_default_queue)
print(app.connection().as_uri(), app.connection_for_read().as_uri())  # Flower's
print(type(app.backend).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(
            CELERY_BROKER_URL="redis://elsewhere",
            CELERY_BROKER_READ_URL="redis://elsewhere",
            CELERY_BROKER_WRITE_URL="redis://elsewhere",
            CELERY_RESULT_BACKEND="redis://elsewhere",
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == (
        "True redis://elsewhere app\namqp://guest:**@oops:5672// oopses\n"
        "amqp://guest:**@oops:5672// amqp://guest:**@oops:5672//\nDisabledBackend\n"
    ), done.stderr
