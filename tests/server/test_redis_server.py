"""The Redis clone, with Redis' own programs and its Python client, and against redis-server itself."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import random
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from harness import DEADLINE, eventually
from redis.backoff import NoBackoff
from redis.retry import Retry
from server.redis_support import Running, converse, real_redis, redis_example, request, tool


@pytest.fixture
def server(engine: str) -> Iterator[Running]:
    with redis_example(engine) as running:
        yield running


@pytest.fixture(params=[None, 2, 3], ids=["default", "resp2", "resp3"])
def client(request: pytest.FixtureRequest, server: Running) -> Iterator[redis.Redis]:
    protocol = {} if request.param is None else {"protocol": request.param}
    with redis.Redis(port=server.port, socket_timeout=DEADLINE, **protocol) as client:
        yield client


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with real_redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture(scope="module")
def ours() -> Iterator[int]:
    """One server for the comparisons, which say nothing about engines."""
    with redis_example("compat") as running:
        yield running.port


# Clients


def test_it_says_where_it_listens_and_how_to_talk_to_it(server: Running) -> None:
    port = server.port
    assert server.output == [f"listening on :{port}; talk to it with: redis-cli -p {port}\n"]


def test_redis_py(client: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert client.ping()
    assert client.echo("hello") == b"hello"
    assert client.set("a", "1")
    assert client.get("a") == b"1"
    assert client.get("none") is None
    assert client.set("a", "2", nx=True) is None
    assert client.set("a", "2", xx=True, get=True) == b"1"
    assert client.incr("n") == 1
    assert client.incrby("n", 10) == 11
    assert client.decr("n") == 10
    assert client.decrby("n", 3) == 7
    assert client.append("s", "abc") == 3
    assert client.strlen("s") == 3
    assert client.mset({"x": "1", "y": "2"})
    assert client.mget("x", "none", "y") == [b"1", None, b"2"]
    assert client.getdel("x") == b"1"
    assert client.exists("x", "y", "y") == 2
    assert client.delete("x", "y") == 1
    assert client.expire("s", 100)
    assert client.ttl("s") == 100
    assert 99_000 < client.pttl("s") <= 100_000
    assert client.persist("s")
    assert client.ttl("s") == -1
    assert client.ttl("none") == -2
    assert client.type("s") == b"string"
    assert sorted(client.keys("[as]")) == [b"a", b"s"]
    assert sorted(client.scan_iter()) == [b"a", b"n", b"s"]
    assert client.dbsize() == 3
    assert client.config_get("append*") == {"appendonly": "no", "appendfsync": "everysec"}
    assert client.client_setname("bob")
    assert client.client_getname() in ("bob", b"bob")
    assert client.client_id() > 0
    assert client.info()["db0"] == {"keys": 3, "expires": 0, "avg_ttl": 0}
    assert client.info("server")["redis_version"] == "7.0.15"
    assert client.command_count() > 30
    assert client.flushdb()
    assert client.dbsize() == 0
    with pytest.raises(redis.ResponseError, match="unknown command 'SADD', with args beginning with: 's' 'm'"):
        client.sadd("s", "m")
    assert caplog.records == []


def test_redis_py_pipelines_and_transactions(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for number in range(10_000):
            pipeline.set(f"key:{number}", number)
        assert pipeline.execute() == [True] * 10_000
    with client.pipeline() as transaction:
        transaction.get("key:1")
        transaction.incr("key:1")
        transaction.get("none")
        transaction.mget("key:1", "none")
        assert transaction.execute() == [b"1", 2, None, [b"2", None]]
    with client.pipeline() as transaction:
        transaction.set("a", "word")
        transaction.incr("a")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            transaction.execute()
    assert client.get("a") == b"word"


def test_values_are_binary_and_of_any_size(client: redis.Redis) -> None:
    value = random.Random(3).randbytes(10_000_000)
    key = bytes(range(256))
    assert client.set(key, value)
    assert client.get(key) == value


def test_a_user_there_is_not_is_refused(server: Running) -> None:
    # Not compared with Redis: 8.0 does not answer at all.
    wrong = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    assert converse(server.port, request("HELLO", "2", "AUTH", "bob", "x") + request("QUIT")) == wrong + b"+OK\r\n"


def test_a_password_is_taken_for_the_default_user(server: Running) -> None:
    with redis.Redis(port=server.port, password="any", client_name="bob") as client:
        assert client.client_getname() in ("bob", b"bob")
    with (
        redis.Redis(port=server.port, username="who", password="any", retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_a_unix_socket(engine: str, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with redis_example(engine, "--unix", path) as running:
        assert running.output == [f"listening on {path}; talk to it with: redis-cli -s {path}\n"]
        with redis.Redis(unix_socket_path=path) as client:
            assert client.set("a", "1")
    assert not os.path.exists(path)


def test_redis_cli_with_a_script(server: Running) -> None:
    script = b"SET a 1\nGET a\nGET none\nHELLO 3\nMULTI\nINCR a\nEXEC\nNOPE\n"
    ended = subprocess.run(
        [tool("redis-cli"), "-p", str(server.port)], input=script, capture_output=True, timeout=DEADLINE, check=True
    )
    lines = ended.stdout.decode().splitlines()
    assert lines[:4] == ["OK", "1", "", "server redis"]
    assert lines[-5:] == ["OK", "QUEUED", "2", "ERR unknown command 'NOPE', with args beginning with: ", ""]
    assert ended.stderr == b""


def test_redis_cli_interactively(server: Running) -> None:
    screen = bytearray()
    terminal, theirs = pty.openpty()
    client = subprocess.Popen(
        [tool("redis-cli"), "-p", str(server.port)],
        env=os.environ | {"TERM": "dumb"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)

    def wait_for(text: bytes) -> None:
        start = len(screen)
        while text not in screen[start:]:
            assert select.select([terminal], [], [], DEADLINE)[0], bytes(screen)
            screen.extend(os.read(terminal, 4096))

    wait_for(b"> ")
    for line, answer in [
        (b"set a hello", b"OK"),
        (b"get a", b'"hello"'),
        (b"get none", b"(nil)"),
        (b"help get", b"> "),
    ]:
        os.write(terminal, line + b"\r")
        wait_for(answer)
    os.write(terminal, b"quit\r")
    assert client.wait(DEADLINE) == 0
    os.close(terminal)
    assert b"rror" not in screen


def test_redis_benchmark(server: Running) -> None:
    command = [tool("redis-benchmark"), "-p", str(server.port), "-t", "ping,set,get,incr,mset", "-P", "128", "-q"]
    ended = subprocess.run([*command, "-n", "20000"], capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert ended.stdout.count("requests per second") == 6
    assert "WARNING" not in ended.stdout + ended.stderr
    assert "rror" not in ended.stdout + ended.stderr


# The end


@pytest.mark.parametrize("options", [[], ["NOSAVE"], ["SAVE", "NOW"]])
def test_shutdown(server: Running, options: list[str]) -> None:
    assert converse(server.port, request("SET", "a", "1") + request("SHUTDOWN", *options)) == b"+OK\r\n"
    assert server.wait() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_at_once_and_quietly(server: Running, number: signal.Signals) -> None:
    with redis.Redis(port=server.port) as client:
        assert client.ping()
        server.process.send_signal(number)
        assert server.wait() == (0, "")


def test_a_bad_request_is_answered_and_ends_the_connection(server: Running) -> None:
    answer = converse(server.port, request("SET", "a", "1") + b"*x\r\n" + request("SET", "a", "2"))
    assert answer == b"+OK\r\n-ERR Protocol error: invalid multibulk length\r\n"
    assert converse(server.port, request("GET", "a") + request("QUIT")) == b"$1\r\n1\r\n+OK\r\n"


# Keys


def test_what_has_expired_is_removed_without_being_asked_for(client: redis.Redis) -> None:
    for number in range(100):
        client.set(f"key:{number}", "x", px=20)
        client.set(f"stays:{number}", "x", ex=1000)
    eventually(lambda: client.dbsize() == 100)
    assert len(client.keys("stays:*")) == 100


@pytest.mark.parametrize("count", [1, 10, 1000, 10**9])
def test_scan_ends_and_misses_no_key_that_stays(server: Running, count: int) -> None:
    with redis.Redis(port=server.port) as client:
        stays = {f"stays:{number}".encode() for number in range(5000)}
        client.mset(dict.fromkeys(stays, "x"))
        found: set[bytes] = set()
        cursor, calls = 0, 0
        while calls == 0 or cursor != 0:
            cursor, keys = client.scan(cursor, count=count)
            found.update(keys)
            calls += 1
            assert calls <= 100
            client.mset({f"comes:{calls}:{number}": "x" for number in range(100)})
            client.delete(*(f"comes:{calls - 1}:{number}" for number in range(100)))
        assert found >= stays


def test_no_pattern_takes_for_ever(server: Running) -> None:
    with redis.Redis(port=server.port, socket_timeout=DEADLINE) as client:
        client.set("a" * 10_000, "x")
        started = time.monotonic()
        assert client.keys("*a" * 50 + "*b") == []
        assert client.keys("*[ab]" * 50 + "*") == [b"a" * 10_000]
        assert time.monotonic() - started < DEADLINE / 4


# Against redis-server, byte for byte

CONVERSATIONS = {
    "get": """
        GET | get a b | SET a 1 | GET a | gEt a | GET none | STRLEN a | STRLEN none | TYPE a | TYPE none |
        EXISTS a a none | ECHO | ECHO x
    """,
    "set": """
        SET | SET a | SET a b c | SET a b EX | SET a b EX x | SET a b EX 0 | SET a b PX -1 |
        SET a b EX 9999999999999999999 | SET a b EX 9223372036854775807 | SET a b PX 9223372036854775807 |
        SET a b EXAT 0 | SET a b PXAT 1 | GET a | SET a b EX 10 PX 10 | SET a b NX XX | SET a b NX GET |
        SET a b EX 10 | SET a c KEEPTTL | TTL a | SET a d | TTL a | SET a b KEEPTTL EX 10 |
        SET a b EX 10 KEEPTTL | SET a b get xx | SET a b NX | SET none b XX | SET a b EX 10 EX 20 | TTL a |
        set a b ex 10 nx | SET none b XX GET | SET none b nx get | GET none | SET a b EXAT 99999999999 |
        TTL none | SET a b EX +1
    """,
    "numbers": """
        SET n 9223372036854775807 | INCR n | INCRBY n -1 | DECRBY n -1 | INCR n |
        DECRBY a -9223372036854775808 | INCRBY a -9223372036854775808 | DECR a | INCRBY a x | INCRBY a 01 |
        INCRBY a +1 | INCRBY a -0 | INCRBY a 1_0 | SET s word | INCR s | INCR | INCR a b | SET e 01 | INCR e |
        DECRBY n 9223372036854775808 | SET m -9223372036854775808 | DECR m | INCR m | incrby m 5 |
        SET t 1 EX 100 | INCR t | TTL t | APPEND t 0 | GET t | TTL t
    """,
    "several": """
        MSET a | MSET a b c | MSET a 1 b 2 a 3 | MGET a b none | MGET | DEL | DEL a a none | GETDEL | GETDEL b |
        GETDEL b | DBSIZE | DBSIZE x | SET a 1 | FLUSHALL foo | FLUSHALL async sync | FLUSHDB async | DBSIZE |
        FLUSHALL SYNC | SET a 1 | flushall | KEYS * | KEYS | APPEND a x | APPEND a y | GET a | APPEND |
        SET t 1 EX 100 | MSET t 2 | TTL t
    """,
    "expiry": """
        EXPIRE a | EXPIRE a x | EXPIRE none 10 | SET a 1 | EXPIRE a 9223372036854775807 |
        expire a -9223372036854775807 | PEXPIRE a 9223372036854775807 | EXPIRE a 100 | TTL a | PERSIST a |
        PERSIST a | PERSIST none | TTL a | PTTL a | PTTL none | TTL | PEXPIRE a 100000 | TTL a |
        EXPIREAT a 99999999999 | PEXPIREAT a 99999999999999 | GET a | PEXPIREAT a -5 | GET a | SET a 1 |
        EXPIREAT a 1 | EXISTS a | SET a 1 | EXPIRE a 0 | EXISTS a | SET a 1 | EXPIRE a -1 | EXPIRE a -1
    """,
    "scan": """
        SCAN | SCAN x | SCAN 0 COUNT 0 | SCAN 0 COUNT x | SCAN 0 FOO | SCAN 0 MATCH | SCAN 0 FOO 1 |
        SCAN 18446744073709551616 | SCAN 0 | SET a 1 | SCAN 0 | SCAN 0 MATCH b* | SCAN 0 match a* count 100 |
        SCAN 0 TYPE string | SCAN 0 TYPE list
    """,
    "transactions": """
        EXEC | DISCARD | MULTI | EXEC | MULTI | MULTI | SET a 1 | GET a | EXEC | MULTI | SET a 2 | DISCARD |
        GET a | MULTI | NOPE | SET a 2 | EXEC | GET a | MULTI | GET | EXEC | MULTI | DISCARD x | EXEC | MULTI |
        PING a b | INCR a b | EXEC | MULTI | SET w x | INCR w | GET w | EXEC | MULTI | SHUTDOWN | EXEC | MULTI |
        PING | EXEC | EXEC | MULTI x | MULTI | HELLO 3 | GET none | HELLO 2 | GET none | EXEC | MULTI |
        SET a 5 | QUIT
    """,
    "hello": """
        HELLO | HELLO 4 | HELLO abc | HELLO 3 FOO | HELLO 2 AUTH a | HELLO 2 AUTH default x SETNAME bob |
        CLIENT GETNAME | HELLO 3 | GET none | MGET none | CLIENT GETNAME |
        hello 2 setname joe | CLIENT GETNAME | HELLO 1 | GET none | HELLO 3 SETNAME | HELLO 4 FOO |
        CONFIG GET save | HELLO 3 | CONFIG GET save | CONFIG GET none | COMMAND DOCS none | SET a 1 | GET a |
        SET a 2 NX | SET a 2 GET | TTL a | GETDEL none
    """,
    "client": """
        CLIENT | CLIENT FOO | CLIENT SETNAME | CLIENT SETNAME bob | CLIENT GETNAME | CLIENT GETNAME x |
        CLIENT ID 1 | client foo x | CLIENT SETNAME é | CONFIG | CONFIG FOO | CONFIG GET | CONFIG GET save |
        CONFIG GET DATA* | COMMAND FOO | COMMAND COUNT 1
    """,
    "server": """
        PING | PING a | PING a b | ping | SELECT 0 | SELECT 1 | SELECT -1 | SELECT x | SELECT | SHUTDOWN FOO |
        SHUTDOWN SAVE NOSAVE | FOO | FOO a b c | foo bar | QUIT x | GET a
    """,
}


#: What a server says of itself, in HELLO: the client's number, its version, and the module that Redis 8 has.
OF_ITSELF = re.compile(
    rb"(?<=\$2\r\nid\r\n:)\d+"
    rb"|(?<=\$7\r\nversion\r\n)\$\d+\r\n[\d.]+"
    rb"|(?<=\$7\r\nmodules\r\n)\*(?:0|1\r\n[*%]\d\r\n\$4\r\nname\r\n\$9\r\nvectorset.*?\*0)\r\n",
    re.DOTALL,
)


def compare(ours: int, real: int, requests: bytes) -> None:
    whole = request("FLUSHALL") + requests + request("QUIT")
    answers = [OF_ITSELF.sub(b"", converse(port, whole)) for port in (ours, real)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("subject", CONVERSATIONS)
def test_it_answers_as_redis_does(ours: int, real: int, subject: str) -> None:
    for protocol in "23":
        lines = [f"HELLO {protocol}", *CONVERSATIONS[subject].split("|")]
        compare(ours, real, b"".join(request(*line.split()) for line in lines))


def test_unknown_commands_are_quoted_as_redis_quotes_them(ours: int, real: int) -> None:
    for args in [
        ["x" * 300],
        ["foo", "y" * 300, "z"],
        ["foo", *["arg"] * 100],
        ["foo", "a\r\nb", "\xe9"],
        ["foo", "a" * 120, "b" * 20, "c"],
        [""],
        ["CLIENT", "x" * 300],
        ["config", ""],
        ["SET", "a", ""],
        ["INCR", "a"],
        ["GET", ""],
        ["HELLO", "3", "x\r\ny"],
    ]:
        compare(ours, real, request(*args))


def test_it_answers_random_commands_as_redis_does(ours: int, real: int) -> None:
    rng = random.Random(20)
    keys = ["a", "b", "c", "d"]
    numbers = ["0", "1", "-1", "007", "x", "", "9223372036854775807", "-9223372036854775808"]
    options = ["NX", "XX", "GET", "KEEPTTL", "EX", "PX", "1000", "0", "x"]
    shapes = {
        "SET": [keys, numbers, options, options, options],
        "GET": [keys, keys],
        "GETDEL": [keys],
        "APPEND": [keys, numbers],
        "INCR": [keys],
        "DECRBY": [keys, numbers],
        "INCRBY": [keys, numbers],
        "MSET": [keys, numbers, keys, numbers],
        "MGET": [keys, keys, keys],
        "DEL": [keys, keys],
        "EXISTS": [keys, keys],
        "EXPIRE": [keys, ["1000", "0", "-1", "x", "9223372036854775807"]],
        "PERSIST": [keys],
        "TTL": [keys],
        "STRLEN": [keys],
        "TYPE": [keys],
        "DBSIZE": [],
        "MULTI": [],
        "EXEC": [],
        "DISCARD": [],
        "HELLO": [["2", "3", "x"]],
        "FLUSHALL": [],
        "NOPE": [keys],
    }
    names = [*shapes, "SET", "SET", "GET", "EXEC", "EXEC"]
    for _ in range(20):
        requests = b""
        for _ in range(150):
            name = rng.choice(names)
            for _ in range(rng.choice([1, 1, 4])):  # runs, of as many arguments or not
                args = [rng.choice(choices) for choices in shapes[name]]
                requests += request(name, *args[: rng.choice([len(args)] * 5 + list(range(len(args) + 1)))])
        compare(ours, real, requests)


def test_patterns_match_as_redis_matches_them(ours: int, real: int) -> None:
    rng = random.Random(21)
    alphabet = "ab]-[^\\*?"
    keys = {"".join(rng.choices(alphabet, k=rng.randint(1, 4))) for _ in range(400)}
    patterns = {"".join(rng.choices(alphabet, k=rng.randint(1, 7))) for _ in range(2000)}
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(redis.Redis(port=port)) for port in (ours, real)]
        pipelines = [stack.enter_context(client.pipeline(transaction=False)) for client in clients]
        for pipeline in pipelines:
            pipeline.flushall()
            pipeline.mset(dict.fromkeys(keys, "x"))
            for pattern in sorted(patterns):
                pipeline.keys(pattern)
        found = [pipeline.execute()[2:] for pipeline in pipelines]
    for pattern, ours_found, real_found in zip(sorted(patterns), *found, strict=True):
        assert sorted(ours_found) == sorted(real_found), pattern
