"""Puts the commands together, and turns what can go wrong into one sentence and an exit code.

Exit codes: 0 done; 1 it failed, or the daemon refused; 2 the config or the use is wrong; 3 another daemon runs.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from scheduler.cli import events, fleet, jobs, local, remote, vtn

FAILED = 1


class Commands(TyperGroup):
    """Commands in the order in which an operator meets them, with errors as sentences."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of their registration."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what is foreseen to go wrong becomes a sentence on stderr."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(FAILED) from None
        except Exception as error:
            if not foreseen(error):
                raise
            typer.echo(str(error), err=True)
            raise typer.Exit(int(getattr(error, "exit_code", FAILED))) from None


def foreseen(error: Exception) -> bool:
    """True for errors whose text is a sentence for the operator; anything else is a bug, and its trace is wanted."""
    from adapters.ports import AdapterError
    from scheduler.cli.client import ClientError
    from scheduler.config.errors import ConfigError
    from scheduler.lock import AlreadyRunning
    from scheduler.store.opening import StoreError

    return isinstance(error, AdapterError | ClientError | ConfigError | AlreadyRunning | StoreError)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # its help would take a second to start
    pretty_exceptions_enable=False,
    help="Lets an AI datacenter pace itself with the power grid.\n\nFirst steps: `gridpace check --config FILE` tries "
    "a config out and changes nothing; `gridpace plan --config FILE` shows what Gridpace would do; `gridpace run "
    "--config FILE` does it. The shell completes commands after `gridpace --install-completion`.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("gridpace"))
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")] = False,
) -> None:
    pass


local.add(app)
remote.add(app)
app.add_typer(events.app, name="events")
app.add_typer(jobs.app, name="jobs")
app.add_typer(fleet.app, name="fleet")
app.add_typer(vtn.app, name="vtn")
