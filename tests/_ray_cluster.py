"""Two Ray nodes on this machine, one of which is killed in the middle of a search; run by ``test_ray.py``.

    python _ray_cluster.py [FOLDER]

FOLDER is that of a run; without one only a few sums are asked for, by the one node that has a processor, until that is
killed. What was found goes to standard output, as one line of JSON. Where the process has a network
of its own, with nothing in it but the loopback, nobody else can reach the nodes; a token guards them in any case.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prunekit.cli.config import RunConfig
from prunekit.cli.job import prepare, read_config
from prunekit.cli.workers import make_executor
from prunekit.core.analysis import analyse
from prunekit.core.candidates import Request
from prunekit.core.errors import PrunekitError
from prunekit.core.executor import LocalExecutor, RayExecutor
from prunekit.core.method import Task
from prunekit.core.plan import PruningPlan
from prunekit.core.registry import get_algorithm
from prunekit.core.settings import check
from prunekit.core.study import Study
from prunekit.core.testing import random_plan

PORT = 6379
ADDRESS = f"127.0.0.1:{PORT}"


def descendants(process: int) -> list[int]:
    """A process and all that it and they have started, each before what it started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found = [process]
    for one in found:
        found += children.get(one, [])
    return found


class Node:
    """A node of this machine."""

    def __init__(self, *options: str) -> None:
        ray = Path(sys.executable).with_name("ray")
        common = ("--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--disable-usage-stats", "--block")
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self.process = subprocess.Popen(
            [ray, "start", *options, *common], start_new_session=True, stdout=self._log, stderr=self._log
        )

    def wait(self) -> None:
        """Wait until it is up."""
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            self._log.seek(0)
            if "Ray runtime started" in self._log.read():
                return
            time.sleep(0.2)
        self._log.seek(0)
        raise RuntimeError(f"no node came up: {self._log.read()}")

    def kill(self) -> None:
        """SIGKILL every process of the node."""
        for process in descendants(self.process.pid) if self.process.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def nodes(*, head_processors: int = 1) -> Iterator[tuple[Node, Node]]:
    """A head and a second node, which are gone afterwards."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    folder = tempfile.mkdtemp(prefix="ray-")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        head = Node(
            "--head",
            f"--port={PORT}",
            "--include-dashboard=false",
            f"--num-cpus={head_processors}",
            f"--temp-dir={folder}",
        )
        stack.callback(head.kill)
        head.wait()
        second = Node(f"--address={ADDRESS}", "--num-cpus=1")
        stack.callback(second.kill)
        second.wait()
        yield head, second


class Search:
    """The search that a configuration describes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.job = folder, prepare(read_config(folder))
        model = self.job.backend.load(self.job.build(), folder / "original", self.job.example())
        self.analysis = analyse(self.job.backend, model, self.job.example())

    def executor(self, **changes: Any) -> RayExecutor:
        data = {**self.job.config.to_mapping(), "executor": {"name": "ray", "address": ADDRESS, **changes}}
        made = make_executor(check(RunConfig, data, "test"), self.folder)
        assert isinstance(made, RayExecutor)
        return made

    def run(self, executor: Any, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
        config, study = self.job.config, Study()
        method = get_algorithm(config.method.name)(config.method.keys)
        outcome = method.run(
            Task(self.analysis, self.job.loaders, seed=config.seed, say=say, study=study, executor=executor)
        )
        scores = [[c.index, c.score, c.figures["loss"]] for c in study]
        return {"plan": outcome.plan.to_dict(), "scores": scores}

    def warm(self, executor: RayExecutor) -> None:
        """Wait until both nodes have answered."""
        end = time.monotonic() + 180
        while len(executor.answers) < 2 and time.monotonic() < end:
            plan = random_plan(self.analysis, seed=0)
            list(executor.map([Request(plan, (0.0,), {}, 0), Request(plan, (0.0,), {}, 0)]))


def main(folder: Path) -> dict[str, Any]:
    search = Search(folder)
    found: dict[str, Any] = {"local": search.run(LocalExecutor())}
    with nodes() as (head, second), search.executor() as executor:
        search.warm(executor)
        before = dict(executor.answers)
        killed: list[dict[str, int]] = []

        def say(text: str) -> None:
            answers = {node: count - before.get(node, 0) for node, count in executor.answers.items()}
            if not killed and len([n for n in answers.values() if n > 0]) == 2:
                killed.append(answers)
                second.kill()

        found["ray"] = search.run(executor, say)
        found["killed"], found["answers"], found["workers"] = killed, dict(executor.answers), executor.workers
        with search.executor(threads=8) as greedy:  # no node has room
            try:
                list(greedy.map([Request(random_plan(search.analysis), (0.0,), {}, 0)]))
            except PrunekitError as error:
                found["no room"] = [type(error).__name__, str(error)]
    return found


def alone() -> dict[str, Any]:
    """What is said when the last node with a processor is gone."""
    plan = PruningPlan({"a": (0, 2)}, {"a": 3})
    done = 0
    with nodes(head_processors=0) as (head, second), RayExecutor("_factories:plain", {}, address=ADDRESS) as executor:
        try:
            for _ in executor.map([Request(plan, (float(k),), {"sleep": 0.5}, 0) for k in range(6)]):
                done += 1
                second.kill()
        except PrunekitError as error:
            return {"done": done, "error": [type(error).__name__, str(error)]}
    return {"done": done}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1])) if len(sys.argv) > 1 else alone()))
