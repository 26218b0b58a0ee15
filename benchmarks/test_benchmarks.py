"""The benchmarks: their statistics and reports on made-up figures, and that what they start does its work."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("the benchmarks need Linux", allow_module_level=True)

from benchmarks import report, servers
from benchmarks.load import client, closed, parse_redis_benchmark
from benchmarks.measure import Sample, Samples, Spread, column, in_turn, ratio, spread
from benchmarks.rows import BENCHMARKS, COMMANDS, Goal, Spinner
from benchmarks.servers import EVIO, FLOOR, Peers, Unusable, running

linux = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux")


# Statistics


def test_spread() -> None:
    assert spread([3]) == (3, 3, 3)
    assert spread([5, 1, 3, 2, 4]) == Spread(median=3, low=2, high=4)


def test_ratio_is_taken_within_a_round() -> None:
    samples: Samples = {"a": [{"t": 2}, {"t": 40}, {"t": 3}], "b": [{"t": 1}, {"t": 20}, {"t": 1}], "c": []}
    assert ratio(samples, "a", "b", "t") == Spread(2, 2, 2.5)
    assert ratio(samples, "a", "c", "t") is None
    assert ratio(samples, "d", "b", "t") is None
    assert column(samples, "a", "t") == Spread(3, 2.5, 21.5)
    assert column(samples, "c", "t") is None


def test_in_turn() -> None:
    ran: list[str] = []

    def contestant(name: str) -> Callable[[], Sample]:
        def run() -> Sample:
            ran.append(name)
            return {"run": len(ran)}

        return run

    samples = in_turn({name: contestant(name) for name in "abc"}, 3)
    assert "".join(ran) == "abc" + "abc" + "cba" + "abc"
    assert samples["a"] == [{"run": 4}, {"run": 9}, {"run": 10}]
    assert [len(each) for each in samples.values()] == [3, 3, 3]


def test_redis_benchmark_output() -> None:
    printed = (
        '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms",'
        '"max_latency_ms"\n"SET","1886792.50","3.260","0.856","3.335","3.823","4.447","5.183"\n'
    )
    assert parse_redis_benchmark(printed) == 1886792.5
    with pytest.raises(ValueError, match="not understood"):
        parse_redis_benchmark("Could not connect\n")


@pytest.mark.parametrize(
    ("measured", "sense", "met"),
    [(2.0, "≥", True), (1.99, "≥", False), (2.0, "≤", True), (2.01, "≤", False), (None, "≤", None)],
)
def test_goal(measured: float | None, sense: str, met: bool | None) -> None:
    assert Goal(1, "work", measured and Spread(measured, 0, 9), sense, 2.0).met is met  # type: ignore[arg-type]


# Reports


def result(name: str, cases: dict[str, Samples], **more: object) -> report.Saved:
    return {
        "name": name,
        "title": f"Title of {name}",
        "taken": "2026-01-02",
        "rounds": 2,
        "machine": {"cpu": "2 of something"},
        "missing": [],
        "goals": [],
        "cases": cases,
    } | more


COSTS: Samples = {
    FLOOR: [{"cpu_us": 2.0, "per_second": 1e6}, {"cpu_us": 2.0, "per_second": 1e6}],
    EVIO: [{"cpu_us": 2.5, "per_second": 9e5}, {"cpu_us": 2.5, "per_second": 8e5}],
    COMMANDS: [{"cpu_us": 3.0, "per_second": 7e5}, {"cpu_us": 3.0, "per_second": 7e5}],
}


def test_page() -> None:
    goals = [
        {
            "row": 7,
            "work": "memory",
            "measured": [400.4, 390, 410],
            "sense": "≤",
            "bound": 512,
            "unit": " B",
            "met": True,
        },
        {"row": 2, "work": "speed", "measured": [1.5, 1.5, 1.5], "sense": "≥", "bound": 2.2, "unit": "", "met": False},
        {"row": 5, "work": "absent", "measured": None, "sense": "≥", "bound": 3.0, "unit": "", "met": None},
    ]
    page = report.page([result("resp", {"SET": COSTS}, goals=goals, missing=["Valkey is not on PATH"])])
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert "| 2 | speed | **1.50** | ≥ 2.2 | no |" in rows
    assert "| 5 | absent | not measured | ≥ 3 |  |" in rows
    assert "| 7 | memory | **400 B** (390 to 410) | ≤ 512 B | yes |" in rows
    assert [row[2] for row in rows if row[2].isdigit()] == ["2", "5", "7"]
    assert "| evio | 2.50 µs | 125 % | 850,000 | 85 % |" in rows
    assert "![Title of resp](resp.svg)" in page
    assert "Left out: Valkey is not on PATH." in page
    assert "Not measured: random, echo," in page
    assert page.count("2 of something") == 1


def test_text_for_the_readme() -> None:
    goals = [{"row": 1, "work": "speed", "measured": [5, 5, 5], "sense": "≥", "bound": 4.5, "unit": "", "met": True}]
    about = {"cpu": "2 of something", "system": "Linux", "python": "CPython", "redis": "Redis 7"}
    samples: Samples = {
        "Redis 7": [{"cpu_us": 0.5, "per_second": 2e6}],
        EVIO: [{"cpu_us": 0.1, "per_second": 4e6}],
    }
    text = report.readme([result("resp", {"SET": samples}, goals=goals, machine=about)])
    assert "![Title of resp](benchmarks/results/resp.svg)" in text
    assert "| SET | 2,000,000 | 4,000,000 | 5.0 times less |" in text
    assert "2 of something, Linux, CPython, Redis 7" in text


def test_page_about_several_machines() -> None:
    page = report.page([result("resp", {"SET": COSTS}), result("echo", {"50": COSTS}, machine={"cpu": "4 of another"})])
    assert page.count("2 of something") == page.count("4 of another") == 1


CHARTED: dict[str, dict[str, Samples]] = {
    "resp": {"SET": COSTS, "GET": COSTS},
    "memory": {"10,000 connections": {EVIO: [{"bytes": 171.0}], "asyncio": [{"bytes": 1649.0}]}},
    "gil": {"50 connections": {EVIO: [{"per_second": 41734.0, "spinner": 0.47, "solo": 1.0, "beside": 0.47}]}},
    "scale": {"10 connections": COSTS, "10,000 connections": COSTS},
    "latency": {"GET": {EVIO: [{"p50_us": 20.0, "p99_us": 99.0, "p999_us": 100.0, "most_us": 200.0}]}},
}
LABELS = {"resp": "2.50 µs", "memory": "1,649 B", "gil": "47 %", "scale": "evio 2.50 µs", "latency": "99 µs"}


@pytest.mark.parametrize("name", CHARTED)
def test_chart(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / f"{name}.json").write_text(json.dumps(result(name, CHARTED[name])), "utf-8")
    report.write(tmp_path)
    chart = (tmp_path / f"{name}.svg").read_text("utf-8")
    assert f">Title of {name}</text>" in chart
    assert f">{LABELS[name]}</text>" in chart
    assert report.ACCENT in chart
    assert f"({name}.svg)" in (tmp_path / "README.md").read_text("utf-8")
    report.write(tmp_path)
    assert (tmp_path / f"{name}.svg").read_text("utf-8") == chart


def test_every_row_has_a_benchmark() -> None:
    page = (Path(__file__).parents[1] / "docs/benchmarks.md").read_text("utf-8")
    table = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    assert [row[1].strip(" `") for row in table] == list(BENCHMARKS)
    assert [int(number) for row in table for number in row[2].split(",")] == list(range(1, 12))


# What is started


KINDS = {
    "floor": servers.floor_echo(),
    "evio": servers.echo("evio"),
    "evio, wakes kept": servers.echo("evio", "--keep"),
    "asyncio": servers.echo("asyncio"),
    "streams": servers.echo("streams"),
    "uvloop": servers.echo("uvloop"),
    "gevent": servers.echo("gevent"),
}


@linux
@pytest.mark.parametrize("kind", KINDS)
def test_echo(kind: str) -> None:
    if kind in ("uvloop", "gevent"):
        pytest.importorskip(kind)
    with running(KINDS[kind]) as server:
        assert server.ask(b"hello", 5) == b"hello"
        with closed(server, 20, active=10) as loop:
            sample = loop.sample(0.1)
        assert 0 < sample["cpu_us"] < 1e5
        assert sample["per_second"] > 10
        with closed(server, 4, copies=16384) as loop:  # 1 MiB
            assert loop.run(0.05).requests >= 4
        with closed(server, 4, each=1) as loop:
            assert loop.run(0.05).requests > 4
        assert server.pss() > 0


REQUESTS = [
    (b"PING\r\n", b"+PONG\r\n"),
    (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
    (b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$3\r\nxxx\r\n", b"+OK\r\n"),
    (b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n", b"$3\r\nxxx\r\n"),
]
STREAM = b"".join(request for request, _ in REQUESTS)
ANSWER = b"".join(answer for _, answer in REQUESTS)


@linux
@pytest.mark.parametrize("start", [servers.floor_resp, servers.commands, servers.runs])
def test_redis(start: servers.Start) -> None:
    with running(start) as server:
        assert server.ask(STREAM * 100, len(ANSWER) * 100) == ANSWER * 100
        assert server.ask(STREAM * 2000, len(ANSWER) * 2000) == ANSWER * 2000  # more than a buffer holds
        address = ("127.0.0.1", server.port)
        with socket.create_connection(address, 20) as sock, sock.makefile("rb") as replies:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in STREAM:
                sock.send(bytes([byte]))
            assert replies.read(len(ANSWER)) == ANSWER


@linux
def test_tiny_redis() -> None:
    asked = b"get nothing\r\nINCR n\r\nincr n\r\nGET n\r\nSET n x\r\nINCR n\r\nGET\r\nFOO\r\nPING hello\r\n"
    expected = (
        b"$-1\r\n:1\r\n:2\r\n$1\r\n2\r\n+OK\r\n"
        b"-ERR wrong arguments, or the value is not an integer\r\n"
        b"-ERR wrong number of arguments for 'get' command\r\n"
        b"-ERR unknown command 'FOO'\r\n$5\r\nhello\r\n"
    )
    with running(servers.commands) as server:
        assert server.ask(asked, len(expected)) == expected


@linux
def test_open_loop() -> None:
    with (
        running(servers.floor_resp) as server,
        client("load/open.c", server.port, 5, 2000, "PING\r\n", 7) as clients,
    ):
        for _ in range(2):
            p50, p99, p999, most = clients.run(0.1)
            assert 0 < p50 <= p99 <= p999 <= most


@linux
def test_spinner(tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_bytes(bytes(8))
    with running(servers.echo("evio", "--spin", str(file))) as server, closed(server, 2) as loop:
        sample: Sample = {}
        with Spinner(str(file)).speed(sample, "beside"):
            assert loop.run(0.2).requests > 0
        assert sample["beside"] > 0


@linux
def test_a_server_that_fails_is_told() -> None:
    with (
        pytest.raises(Unusable, match="has ended: no luck"),
        running(lambda port: [sys.executable, "-c", "import sys; sys.exit('no luck')"]),
    ):
        pass


@linux
def test_servers_are_stopped() -> None:
    with pytest.raises(KeyboardInterrupt), running(servers.floor_echo()) as server:
        raise KeyboardInterrupt
    assert server.process.poll() is not None


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "uvloop", None)
    peers = Peers("/nowhere/redis-server")
    missing = "\n".join(reason for reasons in peers.missing.values() for reason in reasons)
    for what in ("redis-server is not on PATH", "valkey-server is not", "redis-server is not there", "valgrind is not"):
        assert what in missing
    assert peers.redis == []


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_redis_has_a_name_and_a_version() -> None:
    name = servers.redis_name("redis-server")
    assert name.split()[0] in ("Redis", "Valkey")
    assert name.split()[1][0].isdigit()
    assert os.sep not in name
