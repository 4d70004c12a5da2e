"""A real SLURM of two nodes on this machine, for the tests of launch/slurm.

Owns the daemons: munged, slurmctld and a slurmd for each node, with all their files in
one folder and all their ports on loopback, so that nothing outside is touched. Needs
root, and Debian's packages slurm-wlm and munge.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests import needs

NODES = ("n1", "n2")
_CONFIG = """\
ClusterName=psl
SlurmUser=root
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
PlugStackConfig={folder}/plugstack.conf
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
KillWait=20
MinJobAge=3600
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=64 Gres=gpu:2
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs=64 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A running controller with two nodes."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *command: str) -> str:
        """The output of a SLURM command, which must succeed."""
        result = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, timeout=60
        )
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    def submit(self, *words: str | Path, **variables: str | Path) -> str:
        """``VARIABLES sbatch WORDS...`` and the number of the new job."""
        values = {name: str(value) for name, value in variables.items()}
        result = subprocess.run(
            ["sbatch", "--parsable", *map(str, words)],
            capture_output=True,
            text=True,
            env={**self.environment, **values},
            cwd=self.folder,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def output(self) -> str:
        """What all jobs have printed."""
        return "".join(path.read_text() for path in self.folder.glob("*.out"))

    def workers(self, module: str) -> list[psutil.Process]:
        """The processes of ``python -m MODULE`` in all jobs, without launchers."""
        found = []
        for process in processes_of(self.folder):
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if words[1:4] == ["-u", "-m", module] or words[1:3] == ["-m", module]:
                    found.append(process)
        return found

    def facts(self, job: str) -> list[dict[str, str]]:
        """What the controller knows of a job, for each task of its array."""
        lines = self.run("scontrol", "--oneliner", "show", "job", job).splitlines()
        pairs = [[word.partition("=") for word in line.split()] for line in lines]
        return [{key: value for key, _, value in line} for line in pairs if line]

    def wait_for_state(self, job: str, state: str, *, seconds: float = 120) -> None:
        """Return when all tasks of a job are in ``state``."""
        wait_until(
            lambda: {task["JobState"] for task in self.facts(job)} == {state},
            seconds=seconds,
            what=lambda: f"job {job} is not {state}: {self.facts(job)}",
        )

    def start_again(self, job: str, *, restarts: int = 1) -> None:
        """Wait until a job is requeued, then give it a day, and start it soon.

        SLURM would pause for two minutes, and let it keep a limit that a test gave it.
        Started in the same second, the job fails: slurmd takes its credential for that
        of the start before, which is revoked.
        """
        wait_until(
            lambda: (
                self.facts(job)[0]["JobState"] == "PENDING"
                and self.facts(job)[0]["Restarts"] == str(restarts)
            ),
            seconds=120,
            what=lambda: (
                f"job {job} is not requeued: {self.facts(job)}; output:\n"
                + self.output()
            ),
        )
        self.run("scontrol", "update", f"JobId={job}", "TimeLimit=1440")
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+3")

    def wait_for_end(self, job: str, *, seconds: float = 240) -> list[dict[str, str]]:
        """The facts of all tasks of a job once none is waiting or running."""
        at_work = {"PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"}
        wait_until(
            lambda: not at_work & {task["JobState"] for task in self.facts(job)},
            seconds=seconds,
            what=lambda: f"job {job} does not end: {self.facts(job)}",
        )
        return self.facts(job)


def wait_until(
    is_so: Callable[[], bool], *, seconds: float, what: Callable[[], str]
) -> None:
    """Return when ``is_so``; an AssertionError saying ``what`` if that takes longer."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster whose files are in ``folder``; nothing of it is left afterwards."""
    _write_files(folder)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("SLURM")},
        "PATH": _path(),
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    daemons: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str) -> None:
        command = [needs.program(name), *words]
        with open(folder / "daemons.log", "ab") as log:
            daemons.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            )

    cluster = Cluster(folder, environment)
    try:
        start(*_munged(folder))
        _wait_for(lambda: (folder / "munge.socket").exists(), folder)
        start("slurmctld", "-D", "-i")
        for node in NODES:
            start("slurmd", "-D", "-N", node)
        _wait_for(lambda: _idle_nodes(cluster) == len(NODES), folder)
        yield cluster
    finally:
        _stop(cluster, daemons)


def _write_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir()
    with contextlib.ExitStack() as held:  # together, so that they differ
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    text = _CONFIG.format(folder=folder, ports=ports, host=socket.gethostname())
    (folder / "slurm.conf").write_text(text)
    (folder / "plugstack.conf").touch()
    # SLURM counts these files out to jobs as if they were GPUs
    for number in range(2):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)


def _munged(folder: Path) -> list[str]:
    places = {
        "socket": "munge.socket",
        "key-file": "munge.key",
        "pid-file": "munge.pid",
        "log-file": "munge.log",
        "seed-file": "munge.seed",
    }
    options = [f"--{name}={folder / file}" for name, file in places.items()]
    # --force: the folders above are private to root, which is all that we need
    return ["munged", "--foreground", "--force", *options]


def _idle_nodes(cluster: Cluster) -> int:
    command = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N %T"]
    result = subprocess.run(
        command, capture_output=True, text=True, env=cluster.environment, timeout=60
    )
    return result.stdout.count("idle")


def _wait_for(is_so: Callable[[], bool], folder: Path) -> None:
    logs = [*folder.glob("*.log")]
    wait_until(
        is_so,
        seconds=60,
        what=lambda: "".join(f"{log}:\n{log.read_text()[-3000:]}" for log in logs),
    )


def _stop(cluster: Cluster, daemons: list[subprocess.Popen[bytes]]) -> None:
    """End the daemons, and whatever they started."""
    for daemon in daemons:
        daemon.terminate()
    for daemon in daemons:
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(timeout=120)
    for process in processes_of(cluster.folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def processes_of(folder: Path) -> list[psutil.Process]:
    """What runs with the cluster in ``folder`` as its SLURM, daemons and jobs."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURM_CONF", "").startswith(str(folder)):
                found.append(process)
    return found


def _path() -> str:
    """Where the shell of an administrator finds daemons, and this Python before all."""
    return f"{Path(sys.executable).parent}:{needs.search_path()}"


def main() -> None:
    """``python -m tests.slurm COMMAND...``: a command with a cluster of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_cluster(Path(folder) / "slurm") as cluster,
    ):
        result = subprocess.run(sys.argv[1:] or ["bash"], env=cluster.environment)
    sys.exit(result.returncode)


if __name__ == "__main__":
    main()
