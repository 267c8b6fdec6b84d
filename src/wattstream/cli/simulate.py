"""`wattstream simulate`: a fleet of meters and vehicles that reports to an engine."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wattstream.cli.options import engine_key, engine_url
from wattstream.cli.progress import print_totals, shown_progress
from wattstream.cli.truth import wanted, write_truth
from wattstream.client.faults import FAULTS, choose
from wattstream.client.fleet import MINUTE_S, Fleet, Manner
from wattstream.client.sender import Sender
from wattstream.client.simulate import Plan, Simulation
from wattstream.domain.units import MICRO

EXAMPLES = (
    "Examples:  wattstream simulate --pairs 100  ·  "
    "wattstream simulate --pairs 1000 --backfill-hours 24 --backfill-only  ·  "
    "wattstream simulate --late-share 0.05 --duplicate-share 0.05 --out-of-order-share 0.2  ·  "
    "wattstream simulate --backfill-hours 720 --backfill-only --faulty-share 0 --noise 0.02 "
    "--fault efficiency_drift=5 --fault silent=1% --truth truth.jsonl"
)


def simulate(
    pairs: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Chargers: a meter and a vehicle each.")
    ] = 100,
    backfill_hours: Annotated[
        float, typer.Option(min=0, max=9600, help="Hours before now that are sent first.")
    ] = 0,
    backfill_only: Annotated[
        bool, typer.Option("--backfill-only", help="End after the backfill.")
    ] = False,
    duration: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Live heartbeats; default: until Ctrl-C."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Pace of the backfill, simulated seconds a second: 60 is an hour a minute. "
            "Default: as fast as the engine takes it.",
        ),
    ] = None,
    faulty_share: Annotated[
        float, typer.Option(min=0, max=1, help="Chargers that lose 18 to 30 %.")
    ] = 0.03,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=N",
            help=f"Give N pairs, or N% of them, a fault: {', '.join(FAULTS)}. May be repeated. "
            "Each begins in the middle third of the backfill; without one, at once.",
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write there which pairs have which fault, from when."),
    ] = None,
    noise: Annotated[
        float,
        typer.Option(min=0, max=0.2, help="Of a quarter-hour's efficiency, standard deviation."),
    ] = 0.0,
    late_share: Annotated[
        float, typer.Option(min=0, max=1, help="Heartbeats held back for up to three hours.")
    ] = 0.0,
    duplicate_share: Annotated[
        float, typer.Option(min=0, max=1, help="Heartbeats sent again, up to three hours later.")
    ] = 0.0,
    out_of_order_share: Annotated[
        float, typer.Option(min=0, max=1, help="Heartbeats that change places in their batch.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed, another fleet.")] = 0,
    prefix: Annotated[
        str, typer.Option(help="Start of the ids; meter and vehicle of a pair share one.")
    ] = "SIM-",
    batch: Annotated[int, typer.Option(min=1, max=100_000, help="Readings a request.")] = 5000,
    single: Annotated[bool, typer.Option("--single", help="One reading a request.")] = False,
    connections: Annotated[int, typer.Option(min=1, max=1024, help="Requests at once.")] = 4,
    url: Annotated[
        str | None, typer.Option(help="The engine. Default: this machine, WATTSTREAM_PORT.")
    ] = None,
) -> None:
    """Simulate chargers with their meters and vehicles, a heartbeat a minute each.

    Charging sessions, losses, battery temperature and state of charge are plausible and
    follow from the seed: the same seed sends the same readings, whatever is late, repeated
    or out of order. A meter and its vehicle share an id, which links them.
    """
    plan = Plan(
        backfill_min=round(backfill_hours * 60),
        duration_s=0 if backfill_only else duration,
        speed=speed,
        late_share=late_share,
        duplicate_share=duplicate_share,
        out_of_order_share=out_of_order_share,
        batch=batch,
        single=single,
    )
    now_s = time.time()
    end_us = int(now_s) * MICRO
    third_us = plan.backfill_min * MINUTE_S * MICRO // 3
    faults = choose(
        pairs, wanted(fault or [], pairs), seed, end_us - 2 * third_us, end_us - third_us
    )
    fleet = Fleet(
        pairs, seed=seed, faulty_share=faulty_share, faults=faults, manner=Manner(noise=noise)
    )
    simulation = Simulation(fleet, plan, prefix, seed)
    if truth is not None:
        write_truth(truth, simulation.truth())
    console = Console()
    sender = Sender(url or engine_url(), connections=connections, key=engine_key())
    asyncio.run(_run(simulation, sender, console, now_s))
    print_totals(console, sender.totals)
    if sender.totals.rejected:
        raise typer.Exit(1)


async def _run(simulation: Simulation, sender: Sender, console: Console, now_s: float) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run made one
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    total = simulation.backfill_readings or None
    with contextlib.suppress(asyncio.CancelledError):
        await sender.check()
        with shown_progress(console, "simulated", total, sender.totals) as advance:
            await sender.send_all(simulation.batches(now_s), advance)
    await sender.close()
