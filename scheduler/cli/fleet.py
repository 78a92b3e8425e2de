"""Commands for many nodes: make the bus's credentials, look at who is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, echo_json

if TYPE_CHECKING:
    from scheduler.fleet.init import Made

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Many nodes over NATS.")


Names = list[str] | None
Node = Annotated[
    Names, typer.Option("--node", help="Name of a node (repeatable); NODE@LEAF for one that talks to a leaf.")
]
Server = Annotated[
    Names,
    typer.Option(
        "--server",
        help="NAME=HOST[:PORT[:CLUSTER_PORT]] of a NATS server (at first: nats=localhost); several make a cluster.",
    ),
]
LeafServer = Annotated[
    Names, typer.Option("--leaf", help="NAME=HOST[:PORT] of a server for a hall, which alone talks to the others.")
]
LeafPort = Annotated[
    int | None, typer.Option("--leaf-port", min=1, max=65535, help="Where the servers hear leaves (at first: 7422).")
]
Host = Annotated[
    Names,
    typer.Option(
        "--host", help="More names or addresses for certificates (repeatable; at first: localhost, 127.0.0.1)."
    ),
]
StoreDir = Annotated[
    Path | None, typer.Option("--store-dir", help="Where servers keep their streams (at first: /var/lib/nats).")
]
StoreMoved = Annotated[
    bool, typer.Option("--store-moved", help="Another --store-dir than before is meant: the streams lie there now.")
]


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="Where keys, certificates and nats.conf go; kept from others.")],
    node: Node = None,
    server: Server = None,
    leaf: LeafServer = None,
    leaf_port: LeafPort = None,
    host: Host = None,
    store_dir: StoreDir = None,
    store_moved: StoreMoved = False,
) -> None:
    """Make a key for the daemon and for each node, certificates, and the configuration of every server.

    Run it again with new nodes to add them, or with nothing to renew certificates: what exists and is not named stays
    as it was (servers, leaves, hosts and the store are kept in fleet.json); what is named and differs is said. Then
    `nats-server --signal reload`. Certificates are made anew with 90 days left, or when they lack a name.

    \b
    Examples:
      gridpace fleet init /etc/gridpace/fleet --node n01 --node n02 --server nats=nats.example.net
      nats-server -c /etc/gridpace/fleet/nats.conf
      gridpace fleet init /etc/gridpace/fleet --node n03
      gridpace fleet init fleet --node n01 --server a=10.0.0.1 --server b=10.0.0.2 --server c=10.0.0.3
      gridpace fleet init fleet --node n01@hall1 --node n02@hall1 --server nats=10.0.0.1 --leaf hall1=10.1.0.1
    """
    from scheduler.fleet.book import FleetPlan
    from scheduler.fleet.init import init_fleet
    from scheduler.fleet.leaves import peer

    servers = tuple(peer(text) for text in server or ())
    leaves = tuple(peer(text, "--leaf") for text in leaf or ())
    store = store_dir.absolute() if store_dir is not None else None
    plan = FleetPlan(tuple(node or ()), servers, tuple(host or ()), store, leaves, leaf_port, store_moved)
    made = init_fleet(folder.absolute(), plan)
    for line in made.lines or ("nothing to do: all is as it was",):
        typer.echo(line)
    if made.lines:
        _next_steps(folder, made)


def _next_steps(folder: Path, made: Made) -> None:
    """What to do with the files."""
    fleet = made.fleet
    if made.restart:
        typer.echo("Servers that run: copy their files there, then start each anew, one after the other.")
    elif made.reload:
        typer.echo(
            "Servers that run: copy their files there, then `nats-server --signal reload` on each (or kill -HUP)."
        )
    urls = " ".join(f"--fleet tls://{one.host}:{one.port}" for one in fleet.servers)
    typer.echo(f"On each node NODE, with {folder}/NODE.seed and {folder}/ca.pem copied there:")
    typer.echo(f"  gridpace agent {urls} --node NODE --seed NODE.seed --ca ca.pem")
    for one in (leaf.peer for leaf in fleet.leaves):
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
