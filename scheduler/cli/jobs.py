"""`gridpace jobs`: deferrable work of a running daemon."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from scheduler.cli.options import AsJson, OptionalConfig, Url, echo_json, moment

PATH = "/api/v1/jobs"

app = typer.Typer(no_args_is_help=True, help="Batch jobs: look, submit, cancel.")


@app.command("list")
def listing(url: Url = None, config: OptionalConfig = None, as_json: AsJson = False) -> None:
    """Every job, newest first, with what it waits for.

    \b
    Examples:
      gridpace jobs list
    """
    from scheduler.cli.client import Client
    from scheduler.cli.show import show_jobs

    answer = Client(url, config).get(PATH)
    if as_json:
        echo_json(answer)
    elif answer["jobs"]:
        show_jobs(answer["jobs"])
    else:
        typer.echo("No jobs.")


@app.command("add")
def add(  # noqa: PLR0917 - each option is a term of the job
    work_gpu_h: Annotated[float, typer.Option("--work", help="Work in GPU-hours at full throughput.")],
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Most GPUs at once.")],
    deadline: Annotated[str, typer.Option(help="When it must be done, with its offset.")],
    job: Annotated[str | None, typer.Option("--id", help="Id; a second job of the same id changes nothing.")] = None,
    pool: Annotated[str | None, typer.Option(help="Pool that runs it; none: any batch pool.")] = None,
    release: Annotated[str | None, typer.Option(help="Not before this time; none: at once.")] = None,
    preemptible: Annotated[bool, typer.Option(help="May be interrupted without loss.")] = True,
    value: Annotated[float, typer.Option(min=0, help="Money for each GPU-hour done.")] = 0.0,
    priority: Annotated[int, typer.Option(help="Higher goes first where all else is equal.")] = 0,
    min_gpus: Annotated[int, typer.Option(min=0, help="At least so many GPUs at once, or none.")] = 0,
    after: Annotated[list[str] | None, typer.Option(help="Job that must be done before; may be repeated.")] = None,
    url: Url = None,
    config: OptionalConfig = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job; it is on disk when this answers.

    \b
    Examples:
      gridpace jobs add --id eval-7 --work 120 --gpus 32 --deadline 2022-09-07T06:00-07:00
    """
    from scheduler.cli.client import Client

    body: dict[str, Any] = {
        "work_gpu_h": work_gpu_h,
        "max_gpus": gpus,
        "deadline": moment(deadline, "--deadline").isoformat(),
        "preemptible": preemptible,
        "value_per_gpu_h": value,
        "priority": priority,
        "min_gpus": min_gpus,
        "after": after or [],
    }
    body |= {"id": job} if job else {}
    body |= {"pool": pool} if pool else {}
    body |= {"release": moment(release, "--release").isoformat()} if release else {}
    _show(Client(url, config).post(PATH, body), as_json)


@app.command("cancel")
def cancel(
    job: Annotated[str, typer.Argument(help="Id of the job.")],
    url: Url = None,
    config: OptionalConfig = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a job; what it has done stays counted.

    \b
    Examples:
      gridpace jobs cancel eval-7
    """
    from scheduler.cli.client import Client

    _show(Client(url, config).delete(PATH, job), as_json)


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(answer)
    else:
        why = f" ({answer['why']})" if answer.get("why") else ""
        typer.echo(f"{answer['id']}: {answer['state']} in {answer['pool']}{why}")
