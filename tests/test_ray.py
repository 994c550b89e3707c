"""Ray for real: a search on two nodes, of which one is killed, ends as it does in one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_executors import lives, until

from prunekit.cli._yaml import dump
from prunekit.cli.config import load_config
from prunekit.cli.job import prepare
from prunekit.core.candidates import Request
from prunekit.core.errors import WorkerError
from prunekit.core.executor import RayExecutor
from prunekit.core.plan import PruningPlan

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_spec("ray"), reason="no ray")]

TESTS = Path(__file__).parent
BACKENDS = [
    "torch",
    pytest.param("mindspore", marks=pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")),
]
CANDIDATES = 16
SETTINGS = [
    "data={name: digits, limit: 512, batch_size: 32}",
    "training={epochs: 1, lr: 0.1, steps_per_epoch: 8}",
    "export.formats=[]",
    f"method={{name: eagle_eye, candidates: {CANDIDATES}, bn_batches: 4}}",
]
ASKED = [Request(PruningPlan({"a": (0, 2)}, {"a": 3}), (1.0, 2.0), {}, 3)]


def own_network() -> list[str]:
    """A command prefix that gives a process a network with nothing in it but the loopback, where that is allowed."""
    prefix = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if not shutil.which("unshare") or not shutil.which("ip"):
        return []
    return prefix if subprocess.run([*prefix, "true"], capture_output=True).returncode == 0 else []


def cluster(*arguments: Path) -> tuple[dict[str, Any], str]:
    """What ``_ray_cluster.py`` found, and what it said on standard error."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    command = [*own_network(), sys.executable, str(TESTS / "_ray_cluster.py"), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, f"Ray speaks on our standard output: {done.stdout}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found, done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_search_on_two_nodes_survives_the_death_of_one(backend: str, tmp_path: Path) -> None:
    job = prepare(load_config("eagle_eye_resnet20", [*SETTINGS, f"backend={backend}"]))
    model = job.build()
    job.backend.fit(model, job.loaders.train, job.config.training)
    job.backend.save(model, tmp_path / "original")
    (tmp_path / "config.yml").write_text(dump(job.config.to_mapping()))
    found, said = cluster(tmp_path)
    assert "its candidate is evaluated again" in said and "(raylet)" not in said

    assert found["workers"] == 2 and len(found["answers"]) == 2
    ((first, second),) = (tuple(answers.values()) for answers in found["killed"])
    assert first > 0 and second > 0 and first + second < CANDIDATES
    assert found["ray"] == found["local"] and len(found["local"]["scores"]) == CANDIDATES
    kind, message = found["no room"]
    assert kind == "WorkerError"
    assert re.match(
        r"a cluster must have a node with 8 CPU for a worker, got [12] living nodes \(1 CPU, 0 GPU", message
    )


def test_without_a_node_left_the_search_ends() -> None:
    found, said = cluster()
    assert 1 <= found["done"] < 6 and "its candidate is evaluated again" in said
    kind, message = found["error"]
    assert kind == "WorkerError" and "got 1 living nodes (0 CPU, 0 GPU); start nodes" in message


def test_files_reach_workers_and_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    before = set(Path(tempfile.gettempdir()).glob("prunekit-*"))
    with RayExecutor("_factories:plain", {}, lambda: {"a/b.bin": b"1234567"}, workers=1) as executor:
        ((_, result),) = executor.map(ASKED)
        assert result.figures["bytes"] == 7
        assert set(Path(tempfile.gettempdir()).glob("prunekit-*")) <= before


@pytest.mark.parametrize("address", ["127.0.0.1:9", "no.such.host.invalid:6379", "auto"])
def test_a_cluster_that_is_not_there_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        RayExecutor("_factories:plain", {}, address=address, workers=1) as executor,
        pytest.raises(WorkerError, match=f"a cluster must run at '{address}', got .*ray start --head"),
    ):
        list(executor.map(ASKED))


def test_a_ray_that_somebody_else_started_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
    try:
        with RayExecutor("_factories:plain", {}, {"a/b.bin": b"1"}, workers=1, threads=1) as executor:
            list(executor.map(ASKED))
        assert ray.is_initialized()
    finally:
        ray.shutdown()


_MAIN = """
import sys
from test_executors import requests
from prunekit.core.executor import RayExecutor

if __name__ == "__main__":
    executor = RayExecutor("_factories:plain", {}, workers=2, threads=1)
    for position, result in executor.map(requests(2, tell=True, sleep=0.3)):
        print(int(result.figures["pid"]), int(result.figures["parent"]), flush=True)
    list(executor.map(requests(2, sleep=60)))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_ray_of_ours_outlives_the_search(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "search.py"
    script.write_text(_MAIN)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(TESTS)}
    with subprocess.Popen(
        [sys.executable, str(script)], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as search:
        assert search.stdout is not None
        pids = {int(pid) for _ in range(2) for pid in search.stdout.readline().split()}
        search.send_signal(how)
        search.wait(60)
        gone = until(lambda: not any(map(lives, pids)), 60)
    assert len(pids) > 1 and gone
