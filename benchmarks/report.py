"""Results as files: JSON with every sample, and of that a page with the table of the goals, tables and charts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .machine import describe
from .measure import Samples, Spread, column, ratio
from .rows import BENCHMARKS, COMMANDS, Bench, Result
from .servers import EVIO, FLOOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Saved: TypeAlias = dict[str, Any]  #: a result as `save` writes it


class Metric(NamedTuple):
    """How a figure is shown."""

    title: str
    unit: str
    better: str
    digits: int = 0
    scale: float = 1.0
    charted: bool = True

    def show(self, figure: float) -> str:
        return f"{figure * self.scale:,.{self.digits}f}{self.unit}"


METRICS = {
    "cpu_us": Metric("CPU per request", " µs", "less", 2),
    "per_second": Metric("requests per second", "", "more", charted=False),
    "instructions": Metric("instructions per request", "", "less"),
    "mib_per_cpu_second": Metric("MiB per second of CPU", "", "more"),
    "mib_per_second": Metric("MiB per second", "", "more", charted=False),
    "bytes": Metric("user memory per connection", " B", "less"),
    "spinner": Metric("speed left to the busy thread", " %", "more", scale=100),
    "p50_us": Metric("median latency", " µs", "less"),
    "p99_us": Metric("99th percentile", " µs", "less"),
    "p999_us": Metric("99.9th percentile", " µs", "less", charted=False),
}


def save(folder: Path, result: Result, bench: Bench, seconds: float) -> None:
    """Write a result to a file of its name."""
    saved: Saved = {
        "name": result.name,
        "title": result.title,
        "taken": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds),
        "rounds": bench.rounds,
        "requests": bench.requests,
        "pinned": bench.pin,
        "machine": describe([server.name for server in bench.peers.redis]),
        "missing": result.missing,
        "goals": [
            {
                "row": goal.row,
                "work": goal.work,
                "measured": goal.measured,
                "sense": goal.sense,
                "bound": goal.bound,
                "unit": goal.unit,
                "met": goal.met,
            }
            for goal in result.goals
        ],
        "cases": result.cases,
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(saved, indent=1, ensure_ascii=False)
    (folder / f"{result.name}.json").write_text(text + "\n", "utf-8")


def load(folder: Path) -> list[Saved]:
    """Return the results in a folder."""
    files = [folder / f"{name}.json" for name in BENCHMARKS]
    return [json.loads(file.read_text("utf-8")) for file in files if file.exists()]


def write(folder: Path) -> None:
    """Write the page and the charts of the results in a folder."""
    results = load(folder)
    for saved in results:
        draw(saved, folder / f"{saved['name']}.svg")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(page(results), "utf-8")


# Tables


def page(results: list[Saved]) -> str:
    """Return the page about all results, in Markdown."""
    parts = ["# Results\n\nWritten by `make bench`; [how it measures](../../docs/benchmarks.md) is told elsewhere.\n"]
    if missing := [name for name in BENCHMARKS if name not in [saved["name"] for saved in results]]:
        parts.append(f"Not measured: {', '.join(missing)}.\n")
    alike = all(saved["machine"] == results[0]["machine"] for saved in results)
    if results and alike:
        parts.append(machine_table(results[0]["machine"]))
    parts.append(f"## The goals\n\n{goals_table(results)}")
    for saved in results:
        parts.append(f"## {saved['name']}\n\n{section(saved)}")
        if not alike:
            parts.append(machine_table(saved["machine"]))
    return "\n".join(parts)


README_CHARTS = ("resp", "echo", "scale")


def readme(results: list[Saved]) -> str:
    """Return what the project's README says about performance, in Markdown."""
    charts = [
        f"![{saved['title']}](benchmarks/results/{saved['name']}.svg)\n"
        for saved in results
        if saved["name"] in README_CHARTS
    ]
    machine = results[0]["machine"]
    where = ", ".join(machine[what] for what in ("cpu", "system", "python", "redis"))
    rounds = min(saved["rounds"] for saved in results)
    return f"""\
`make bench`, which takes some 17 minutes, compares evio with its peers, and with *the floor*, a C program that
does the least that the work allows. What counts is the server's CPU time for a request, since throughput mostly
tells how fast the client is. [How it measures](docs/benchmarks.md) and [all results](benchmarks/results/README.md)
have pages of their own.

{redis_table(results)}
{chr(10).join(charts)}
Measured on {where}; the figures are medians of
{rounds} rounds, and ratios are taken within a round. What it means:

- Redis' commands come 128 at a time, all alike. There `resp.Runs` gains most: a run of commands costs
  Python a few calls, not a few for each. Without pipelining the kernel's share decides, as in the echo.
- With one key the requests are the same to the byte, and evio does not read the same request twice in a row.
  With a million keys at random they differ, and most of the time goes to waiting for memory, in Redis as in a dict.
- `redis-benchmark` has one thread too, and with one key it is the busier of the two: requests per second are then
  no limit of evio's.
- The clone does less than Redis: one type of value, no replication, no memory limit. Both ran without persistence.

"""


def redis_table(results: list[Saved]) -> str:
    """Return how the Redis clone does beside Redis, for each command."""
    rows = []
    for saved in results:
        if saved["name"] not in ("resp", "random"):
            continue
        keys = "" if saved["name"] == "resp" else ", a million keys"
        for case, samples in saved["cases"].items():
            peer = next((name for name in samples if name not in (EVIO, FLOOR, COMMANDS)), "Redis")
            speeds = [column(samples, name, "per_second") for name in (peer, EVIO)]
            less = ratio(samples, peer, EVIO, "cpu_us")
            shown = [f"{speed.median:,.0f}" if speed else "" for speed in speeds]
            rows.append((case.split(",")[0] + keys, *shown, f"{less.median:.1f} times less" if less else ""))
    return table(("`redis-benchmark -P 128`", "Redis, requests/s", "evio, requests/s", "evio's CPU per request"), rows)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine_table(machine: dict[str, str]) -> str:
    return table(("measured on", ""), machine.items())


def goals_table(results: list[Saved]) -> str:
    """Return what was measured of each goal: the median, and the quartiles around it."""
    rows = []
    for goal in sorted((goal for saved in results for goal in saved["goals"]), key=lambda goal: int(goal["row"])):
        measured, unit = goal["measured"], goal["unit"]
        digits = 0 if unit else 2
        if measured is None:
            shown = "not measured"
        else:
            median, low, high = (f"{figure:,.{digits}f}" for figure in measured)
            shown = f"**{median}{unit}** ({low} to {high})" if low != high else f"**{median}{unit}**"
        met = {True: "yes", False: "no", None: ""}[goal["met"]]
        rows.append((str(goal["row"]), goal["work"], shown, f"{goal['sense']} {goal['bound']:g}{unit}", met))
    return table(("#", "measured", "median (quartiles)", "goal", "met"), rows)


def section(saved: Saved) -> str:
    taken = max((len(runs) for samples in saved["cases"].values() for runs in samples.values()), default=0)
    rounds = "1 round" if taken == 1 else f"{taken} rounds"
    text = f"{saved['title']}. {rounds}, {saved['taken']}.\n\n![{saved['title']}]({saved['name']}.svg)\n"
    for case, samples in saved["cases"].items():
        text += "\n" + case_table(case, samples)
    if saved["missing"]:
        text += "\nLeft out: " + "; ".join(saved["missing"]) + ".\n"
    return text


def case_table(case: str, samples: Samples) -> str:
    """Return the medians of a case, and what part of the floor's they are."""
    metrics = [name for name in METRICS if any(name in sample for runs in samples.values() for sample in runs[:1])]
    compared = FLOOR in samples
    head = [case]
    for metric in metrics:
        head += [METRICS[metric].title, "of the floor's"] if compared else [METRICS[metric].title]
    rows = []
    for name in samples:
        row = [name]
        for metric in metrics:
            figure = column(samples, name, metric)
            row.append(METRICS[metric].show(figure.median) if figure else "")
            if compared:
                share = ratio(samples, name, FLOOR, metric)
                row.append(f"{share.median * 100:,.0f} %" if share else "")
        rows.append(row)
    return table(head, rows)


# Charts

ACCENT, SECOND, GREY, INK, PALE = "#d9480f", "#f0a17c", "#b8bec6", "#24292f", "#6b7280"
STYLE: Any = {  # matplotlib types each key, and not the same in each version
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "evio",  # the same results give the same file
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": PALE,
    "xtick.color": PALE,
    "ytick.color": INK,
}


def colour(name: str) -> str:
    return {EVIO: ACCENT, COMMANDS: SECOND}.get(name, GREY)


class Panel(NamedTuple):
    """One group of bars."""

    title: str
    metric: Metric
    bars: list[tuple[str, Spread]]


def panels(saved: Saved) -> Iterator[Panel]:
    """Give a panel for each case and charted metric."""
    for case, samples in saved["cases"].items():
        for name, metric in METRICS.items():
            bars = [
                (who, figure) for who in samples if name in samples[who][0] and (figure := column(samples, who, name))
            ]
            if bars and (metric.charted or saved["name"] == "gil"):
                yield Panel(f"{case}: {metric.title}" if len(saved["cases"]) > 1 else metric.title, metric, bars)


def draw(saved: Saved, file: Path) -> None:
    """Write the chart of a result as SVG."""
    import matplotlib  # noqa: PLC0415 (it takes a second, and need not be there to measure)
    from matplotlib.figure import Figure  # noqa: PLC0415

    with matplotlib.rc_context(STYLE):
        figure = Figure(facecolor="white")
        if saved["name"] == "scale":
            lines(figure, saved)
        else:
            bars(figure, list(panels(saved)))
        height = figure.get_figheight()
        figure.text(0.02, 1 - 0.25 / height, saved["title"], fontweight="bold", fontsize=12)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def bars(figure: Figure, shown: list[Panel]) -> None:
    """Draw panels of horizontal bars, each with its figure behind it and its quartiles on it."""
    columns = 1 if len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    most = max(len(panel.bars) for panel in shown)
    height = 1 + rows * (0.55 + 0.3 * most)
    figure.set_size_inches(9, height)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left=0.17, right=0.97, top=1 - 0.95 / height, bottom=0.15 / height, wspace=0.6, hspace=0.35)
    for index, axes in enumerate(grid.flat):
        if index >= len(shown):
            axes.set_axis_off()
            continue
        panel = shown[index]
        bare(axes)
        names = [name for name, _ in panel.bars]
        medians = [figure.median for _, figure in panel.bars]
        axes.barh(names, medians, height=0.68, color=[colour(name) for name in names])
        for place, (name, value) in enumerate(panel.bars):
            axes.plot([value.low, value.high], [place, place], color=INK, linewidth=1)
            axes.annotate(
                panel.metric.show(value.median),
                (max(value.median, value.high), place),
                (5, 0),
                textcoords="offset points",
                va="center",
                color=ACCENT if name == EVIO else INK,
                fontweight="bold" if name == EVIO else "normal",
            )
        axes.set_xlim(0, 1.28 * max(value.high for _, value in panel.bars))
        axes.set_ylim(most - 0.4, -0.6)  # the first on top, and bars of one height in all panels
        axes.spines["left"].set_bounds(-0.5, len(names) - 0.5)
        axes.set_title(panel.title, loc="left", fontsize=11)
        axes.set_xticks([])
    say(figure, f"{shown[0].metric.better} is better; the thin lines are the quartiles")


def say(figure: Figure, how: str) -> None:
    """Write below the title how the chart is to be read."""
    figure.text(0.02, 1 - 0.47 / figure.get_figheight(), how, fontsize=10, color=PALE)


def bare(axes: Axes) -> None:
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def lines(figure: Figure, saved: Saved) -> None:
    """Draw the cost against the number of connections, a line for each server."""
    figure.set_size_inches(9, 3.6)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.06, right=0.84, top=0.82, bottom=0.16)
    counts = [int(case.split()[0].replace(",", "")) for case in saved["cases"]]
    top = 0.0
    for index, name in enumerate(next(iter(saved["cases"].values()))):
        costs = [cost for samples in saved["cases"].values() if (cost := column(samples, name, "cpu_us"))]
        low, median, high = ([getattr(cost, part) for cost in costs] for part in ("low", "median", "high"))
        axes.plot(counts, median, color=colour(name), linewidth=2, marker="o", markersize=5)
        axes.fill_between(counts, low, high, color=colour(name), alpha=0.2, linewidth=0)
        axes.annotate(
            f"{name} {METRICS['cpu_us'].show(median[-1])}",
            (counts[-1], median[-1]),
            (10, 0 if index else 4),  # the two may lie close together
            textcoords="offset points",
            va="top" if index else "bottom",
            color=ACCENT if name == EVIO else INK,
            fontweight="bold" if name == EVIO else "normal",
        )
        top = max(top, *high)
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_ylim(0, 1.2 * top)
    axes.tick_params(colors=PALE)
    axes.set_xlabel("open connections", color=PALE)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    say(figure, "CPU per request in µs; less is better; the bands are the quartiles")
