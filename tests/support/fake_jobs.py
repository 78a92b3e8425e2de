"""Jobs of the daemon made of formulas: one in each state that a page must show."""

from datetime import timedelta

from scheduler.service import Refused
from scheduler.status import JobStatus


def row(name, state, progress, gpus, deadline, reason, why, finish=None):
    return JobStatus(name, "finetune", state, progress, gpus, deadline, finish, reason, why)


def first_jobs(start):
    hours = [start + timedelta(hours=i) for i in range(24)]
    return [
        row("embeddings-7", "done", 1.0, 0, hours[1], "work_done", "Finished at 14:00.", start),
        row("eval-nightly", "running", 0.35, 640, hours[8], "deadline", "Runs now: its deadline leaves no slack.",
             hours[7]),
        row("synth-data-31", "waiting", 0.0, 0, hours[16], "cheap_window",
             "Waits for 01:00, when a MWh costs 31 instead of 640; 6 h of slack remain.", hours[14]),
        row("job-late", "running", 0.1, 1200, hours[2], "deadline_unreachable", "Cannot finish in time: 3.2 h short.",
             hours[5]),
        row("lora-batch", "suspended", 0.6, 0, hours[20], "dr_event", "Suspended for evening-peak until 19:00.",
             hours[18]),
    ]  # fmt: skip


class Alone:
    """No coordinator is in the config."""

    def report(self, *_):
        raise Refused("coordination: is not in this daemon's config", 409)

    share, homes = report, dict
