"""A real Slurm on this machine: munged, slurmctld and a few slurmd with some fake GPUs each, in a folder of its own.

Everything runs as the present user on ports of its own; nothing of an installed Slurm is touched. The devices behind
the GPUs are terminals, which Slurm only counts.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from adapters.context import AdapterContext
from adapters.jobs.slurm import SlurmConfig, SlurmJobs
from scheduler.clock import WallClock
from tests.support import system
from tests.support.ports import free_port

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=1
GresTypes=gpu
Licenses=power_kw:{licences}
ReturnToService=2
KillWait=2
MinJobAge=300
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=gpu[0-{last}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{end}] CPUs=8 RealMemory=2000 \\
  Gres=gpu:h100:{gpus}
PartitionName=batch Nodes=gpu[0-{last}] Default=YES State=UP MaxTime=INFINITE
"""
JWT = """AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={folder}/jwt.key
"""


class Cluster:
    """`nodes` nodes of so many GPUs each. Commands find it through the environment in `env`."""

    def __init__(self, folder, nodes=2, licences=40, rest=False, gpus=8):
        system.require(
            "slurmctld", "slurmd", "munged", "squeue", "scontrol", "sbatch", *(["slurmrestd"] if rest else [])
        )
        self.folder, self.nodes, self.parts = Path(folder), nodes, {}
        for name in ("state", *(f"spool/gpu{k}" for k in range(nodes))):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        first = _free_ports(nodes)
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        host = socket.gethostname().split(".")[0]
        values = {"host": host, "port": free_port(), "user": user, "folder": self.folder, "licences": licences,
                  "last": nodes - 1, "gpus": gpus, "first": first, "end": first + nodes - 1}  # fmt: skip
        (self.folder / "slurm.conf").write_text(CONF.format(**values) + (JWT.format(**values) if rest else ""))
        (self.folder / "jwt.key").write_bytes(os.urandom(32))
        (self.folder / "jwt.key").chmod(0o600)
        self.rest = free_port() if rest else None
        devices = f"/dev/tty[0-{gpus - 1}]"
        (self.folder / "gres.conf").write_text(f"NodeName=gpu[0-{nodes - 1}] Name=gpu Type=h100 File={devices}\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)
        self.folder.chmod(0o755)
        self.conf = str(self.folder / "slurm.conf")
        self.env = {**os.environ, "SLURM_CONF": self.conf}

    def start(self):
        """Everything up, every node idle."""
        where = self.folder
        self._part(
            "munged", "--foreground", f"--key-file={where}/munge.key", f"--socket={where}/munge.socket", "--force",
            f"--pid-file={where}/munged.pid", f"--log-file={where}/munged.log", f"--seed-file={where}/munged.seed",
        )  # fmt: skip
        self.wait((where / "munge.socket").exists)
        self.start_controller()
        for node in range(self.nodes):
            self._part("slurmd", "-D", "-N", f"gpu{node}", "-f", self.conf, name=f"slurmd{node}")
        self.wait(lambda: self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split().__len__() == self.nodes)
        if self.rest:
            self.start_rest()
        return self

    def start_rest(self):
        """slurmrestd, on a port with tokens and on a socket without, as the present user."""
        more = {"SLURM_JWT": "daemon", "SLURMRESTD_SECURITY": "disable_user_check"}
        for name, auth, place in (("rest-tcp", "jwt", f"127.0.0.1:{self.rest}"),
                                  ("rest-unix", "local", f"unix:{self.folder}/rest.sock")):  # fmt: skip
            options = ("-f", self.conf, "-a", f"rest_auth/{auth}", "-s", "openapi/v0.0.38", place)
            env = {**self.env, **(more if auth == "jwt" else {"SLURMRESTD_SECURITY": "disable_user_check"})}
            self._part("slurmrestd", *options, name=name, env=env)
        self.wait(lambda: _answers(self.rest) and (self.folder / "rest.sock").exists())

    def token(self):
        """A token of the present user."""
        return self.run("scontrol", "token", "lifespan=3600").strip().partition("=")[2]

    def start_controller(self):
        """slurmctld, once more after `stop_controller`."""
        self._part("slurmctld", "-D", "-f", self.conf)
        self.wait(lambda: "UP" in self.run("scontrol", "ping", check=False))

    def stop_controller(self):
        """End slurmctld in order."""
        self._end("slurmctld")

    def stop(self):
        """No job left, then every part ended."""
        with suppress(subprocess.SubprocessError, AssertionError):
            if "slurmctld" in self.parts:
                self.run("scontrol", "delete", "ReservationName=gridpace", check=False)
                for job in self.run("squeue", "-h", "-o", "%i", check=False).split():
                    self.run("scontrol", "resume", job, check=False)
                    self.run("scancel", job, check=False)
                self.wait(lambda: not self.run("squeue", "-h", check=False), 15)
        for name in [*(name for name in self.parts if name.startswith(("slurmd", "rest"))), "slurmctld", "munged"]:
            self._end(name)

    # ------------------------------------------------------------ as a user
    def run(self, *command, check=True):
        """What a command prints."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=30, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def submit(self, *options, gpus=8, minutes=60, seconds=3600):
        """The id of a new job that sleeps."""
        return self.run(
            "sbatch", "--parsable", "-N1", f"--gres=gpu:h100:{gpus}", f"--time={minutes}", "--requeue",
            f"--output={self.folder}/out.%j", *options, "--wrap", f"sleep {seconds}",
        ).strip()  # fmt: skip

    def states(self):
        """State and reason by job."""
        rows = (row.split("|") for row in self.run("squeue", "-h", "-t", "all", "-o", "%i|%T|%r").splitlines())
        return {job: (state, reason) for job, state, reason in rows}

    def wait(self, true, seconds=30.0):
        """Poll until `true()` holds and return it."""
        ends = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < ends, "it did not happen"
            time.sleep(0.05)
        return found

    # ------------------------------------------------------------ processes
    def _part(self, command, *options, name=None, env=None):
        with (self.folder / f"{name or command}.out").open("w") as log:
            part = subprocess.Popen([command, *options], env=env or self.env, stdout=log, stderr=log)
        self.parts[name or command] = part

    def _end(self, name):
        part = self.parts.pop(name, None)
        if part is None:
            return
        part.terminate()
        try:
            part.wait(10)
        except subprocess.TimeoutExpired:
            part.kill()
            part.wait()


@contextmanager
def a_cluster(prefix, **more):
    """A cluster that runs, in a folder of its own; short, since a socket's path has 108 characters at most."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    made = Cluster(folder, **more)
    try:
        yield made.start()
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def pacing(cluster):
    """Makes job systems on a cluster, and leaves it empty, with nothing held."""
    made = []

    def make(store=None, **more):
        fields = {"partitions": {"batch": "tune"}, "conf": cluster.conf, "refresh": "0.3s"} | more
        context = AdapterContext(WallClock(), cluster.folder, store)
        made.append(SlurmJobs(SlurmConfig(type="slurm", **fields), context))
        return made[-1]

    yield make
    for jobs in made:
        assert jobs.release() == ()
    assert "gridpace" not in cluster.run("scontrol", "show", "reservation")
    for job, (state, _) in cluster.states().items():
        if state in {"PENDING", "RUNNING", "SUSPENDED"}:
            cluster.run("scancel", job)
    cluster.wait(lambda: not cluster.run("squeue", "-h"))


def job_of(jobs, name):
    """One job as the planner sees it; None where it is not there."""
    return next((job for job in jobs.snapshot() if job.id == name), None)


def _answers(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _free_ports(count):
    """The first of so many free ports in a row; other test processes look from elsewhere on."""
    start = os.getpid() * 41 % 7000
    for step in range(200):
        first = 21000 + (start + 37 * step) % 7000
        probes = []
        try:
            for port in range(first, first + count):
                probe = socket.socket()
                probes.append(probe)
                probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no free ports")
