"""Commands for many nodes: make the bus's credentials, look at who is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scheduler.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, echo_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Many nodes over NATS.")

DEFAULT_HOSTS = ["localhost", "127.0.0.1"]


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="Where keys, certificates and nats.conf go; kept from others.")],
    node: Annotated[
        list[str], typer.Option("--node", help="Name of a node (repeatable); NODE@LEAF for one that talks to a leaf.")
    ],
    server: Annotated[
        list[str] | None,
        typer.Option("--server", help="NAME=HOST[:PORT[:CLUSTER_PORT]] of a NATS server; several make a cluster."),
    ] = None,
    leaf: Annotated[
        list[str] | None,
        typer.Option("--leaf", help="NAME=HOST[:PORT] of a server for a hall, which alone talks to the others."),
    ] = None,
    leaf_port: Annotated[int, typer.Option("--leaf-port", help="Where the servers hear leaves.")] = 7422,
    host: Annotated[
        list[str] | None, typer.Option("--host", help="More names or addresses for the certificate (repeatable).")
    ] = None,
    store_dir: Annotated[Path, typer.Option("--store-dir", help="Where the server keeps its streams.")] = Path(
        "/var/lib/nats"
    ),
) -> None:
    """Make a key for the daemon and for each node, certificates, and the server's configuration.

    Run it again with more nodes to add them: what exists stays. Then `nats-server --signal reload`.

    \b
    Examples:
      gridpace fleet init /etc/gridpace/fleet --node n01 --node n02 --server nats=nats.example.net
      nats-server -c /etc/gridpace/fleet/nats.conf
      gridpace fleet init fleet --node n01 --server a=10.0.0.1 --server b=10.0.0.2 --server c=10.0.0.3
      gridpace fleet init fleet --node n01@hall1 --node n02@hall1 --server nats=10.0.0.1 --leaf hall1=10.1.0.1
    """
    from scheduler.fleet.init import FleetPlan, init_fleet
    from scheduler.fleet.leaves import peer

    servers = tuple(peer(text) for text in server or ["nats=localhost"])
    leaves = tuple(peer(text, "--leaf") for text in leaf or ())
    plan = FleetPlan(tuple(node), servers, tuple(host or DEFAULT_HOSTS), store_dir.absolute(), leaves, leaf_port)
    for path in init_fleet(folder.absolute(), plan):
        typer.echo(str(path))
    urls = " ".join(f"--fleet tls://{one.host}:{one.port}" for one in servers)
    typer.echo(f"On each node NODE, with {folder}/NODE.seed and {folder}/ca.pem copied there:")
    typer.echo(f"  gridpace agent {urls} --node NODE --seed NODE.seed --ca ca.pem")
    for one in leaves:
        own = f"--fleet tls://{one.host}:{one.port} --node NODE"
        typer.echo(f"On nodes of {one.name}, whose server runs with {one.name}.conf, .pem and .key and ca.pem:")
        typer.echo(f"  gridpace agent {own} --seed NODE.seed --ca ca.pem")


@app.command("status")
def status(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Who is there: every node's GPUs, phase, epoch and lease, asked now.

    \b
    Examples:
      gridpace fleet status
      gridpace fleet status --json
    """
    from adapters.context import AdapterContext
    from adapters.ports import AdapterError
    from scheduler.clock import WallClock
    from scheduler.config import load_config
    from scheduler.config.builtin import FleetPowerConfig
    from scheduler.hardware import fleet_power

    loaded = load_config(config)
    if not isinstance(loaded.power, FleetPowerConfig):
        raise AdapterError(f"{config}: power: is not of type fleet")
    fleet = fleet_power(loaded.power, AdapterContext(WallClock(), config.absolute().parent))
    try:
        fleet.discover()
        rows = [_row(state) for _, state in sorted(fleet.states().items())]
        silent = fleet.silent()
    finally:
        fleet.close()
    if as_json:
        echo_json({"nodes": rows, "silent": list(silent)})
        return
    for row in rows:
        line = "{node:<24} {phase:<10} {gpus:>3} GPUs {draw_kw:>8.2f} kW, {capped} capped, epoch {epoch}"
        typer.echo(line.format(**row) + f", lease {row['lease_left_s']:.0f} s")
    for name in silent:
        typer.echo(f"{name:<24} silent")


def _row(state: Any) -> dict[str, Any]:
    return {
        "node": state.node,
        "phase": state.phase,
        "gpus": len(state.draw_w),
        "draw_kw": sum(state.draw_w.values()) / 1000.0,
        "capped": state.capped,
        "epoch": state.epoch,
        "sequence": state.sequence,
        "lease_left_s": state.lease_left_s,
    }
