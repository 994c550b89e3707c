"""Executors: the same figures wherever candidates are evaluated, also where workers die; and none is left behind."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from _factories import Odd, plain
from _house import python

from prunekit.core.candidates import Proposal, Request
from prunekit.core.errors import CheckpointError, CutError, InputError, MissingDependencyError, WorkerError
from prunekit.core.executor import Executor, LocalExecutor, ProcessExecutor, RayExecutor
from prunekit.core.executor._remote import RemoteExecutor
from prunekit.core.ledger import Ledger
from prunekit.core.plan import PruningPlan
from prunekit.core.study import Study

TESTS = Path(__file__).parent
PLAN = PruningPlan({"a": (0, 2)}, {"a": 3})
REMOTE = ["processes", pytest.param("ray", marks=pytest.mark.slow)]
ALL = ["local", *REMOTE]
Make = Callable[..., Executor]


def requests(count: int, **options: Any) -> list[Request]:
    return [Request(PLAN, (float(k), 0.1), options, seed=k) for k in range(count)]


def gather(executor: Executor, asked: Sequence[Request]) -> list[dict[str, float]]:
    """Figures in the order of the requests."""
    found = {position: dict(result.figures) for position, result in executor.map(asked)}
    return [found[k] for k in range(len(asked))]


def expected(count: int) -> list[dict[str, float]]:
    return [{"score": k + 0.1 + k, "kept": 2.0} for k in range(count)]


def lives(process: float) -> bool:
    """Whether a process is there and not only waits to be looked after."""
    try:
        state = Path(f"/proc/{int(process)}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def until(true: Callable[[], bool], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes executors of a name, which are closed after the test."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))  # where Ray's workers find the factory
    with contextlib.ExitStack() as stack:

        def build(name: str, workers: int = 2, **arguments: Any) -> Executor:
            kind = {"processes": ProcessExecutor, "ray": RayExecutor}.get(name)
            made: Executor = LocalExecutor() if kind is None else kind("_factories:plain", arguments, workers=workers)
            made.prepare(lambda: plain(**arguments))
            return stack.enter_context(made)

        yield build


# ---------------------------------------------------------------- the contract


@pytest.mark.parametrize("name", ALL)
def test_the_same_figures_in_the_same_places(name: str, make: Make) -> None:
    executor = make(name)
    assert list(executor.map([])) == []
    assert gather(executor, requests(5)) == expected(5)
    assert gather(executor, requests(2)) == expected(2)  # by the same workers


class Scripted(RemoteExecutor[int]):
    """Two workers, of which the second comes up together with the first one's answer."""

    def __init__(self) -> None:
        super().__init__(2)
        self.begun = 0
        self.asked: dict[int, str] = {}

    def _start(self) -> int:
        self.begun += 1
        return self.begun

    def _send(self, hand: int, text: str) -> None:
        self.asked[hand] = text

    def _wait(self, hands: Sequence[int]) -> list[tuple[int, str | None]]:
        answer = json.dumps({"figures": {"score": 1.0}, "seconds": 0.1})
        if not self.asked:
            return [(1, "{}")]
        heard: list[tuple[int, str | None]] = [(hand, answer) for hand in hands if hand in self._busy]
        heard += [(hand, "{}") for hand in hands if hand in self._starting]
        assert heard, "nobody is left to wait for"
        return heard

    def _why(self, hand: int) -> str:
        return "it was stopped"

    def _stop(self, hand: int) -> None:
        pass


def test_who_stops_listening_can_ask_again() -> None:
    executor = Scripted()
    for _ in executor.map(requests(3)):
        break
    assert [position for position, _ in executor.map(requests(1))] == [0]


@pytest.mark.parametrize("name", ALL)
def test_a_failed_evaluation_says_what_went_wrong(name: str, make: Make) -> None:
    executor = make(name)
    asked = requests(4)
    asked[2] = requests(1, fail="prunekit")[0]
    found = []
    with pytest.raises(CutError, match=r"^a cut must fit, got 3; freeze it$") as caught:
        for position, _ in executor.map(asked):
            found.append(position)
    assert caught.value.position == 7
    assert {0, 1} <= set(found)  # what was begun before is not lost
    assert gather(executor, requests(2)) == expected(2)


@pytest.mark.parametrize("name", ALL)
def test_an_error_of_python_is_told_with_its_trace(name: str, make: Make) -> None:
    kind = Odd if name == "local" else WorkerError
    with pytest.raises(kind) as caught:
        gather(make(name), requests(1, fail="python"))
    if name != "local":
        assert "an evaluation must not fail" in str(caught.value) and "_factories.Odd: firstsecond" in str(caught.value)
        assert 'raise Odd("first", "second")' in str(caught.value.__cause__)


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize(
    ("broken", "kind", "part"),
    [
        ("prunekit", CheckpointError, "weights must be whole, got half of them; copy them again"),
        ("python", WorkerError, "workers must be able to make their evaluation, got KeyError: 'half'"),
        ("death", WorkerError, "workers must come up, got 4 in a row that ended before"),
    ],
)
def test_workers_that_cannot_begin(name: str, broken: str, kind: type, part: str, make: Make) -> None:
    with pytest.raises(kind) as caught:
        gather(make(name, 1, broken=broken), requests(1))
    assert part in str(caught.value)


@pytest.mark.parametrize("end", ["die", "memory"])
@pytest.mark.parametrize("name", REMOTE)
def test_a_worker_that_dies_loses_nothing(
    name: str, end: str, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = make(name)
    asked = requests(5)
    asked[1] = Request(PLAN, asked[1].vector, {end: str(tmp_path), "times": 2}, asked[1].seed)
    assert gather(executor, asked) == expected(5)
    assert len(list(tmp_path.iterdir())) == 2
    assert caplog.text.count("its candidate is evaluated again") == 2
    assert caplog.text.count("it ran out of memory") == (2 if (name, end) == ("processes", "memory") else 0)


@pytest.mark.parametrize("end", ["die", "memory"])
@pytest.mark.parametrize("name", REMOTE)
def test_a_candidate_that_kills_every_worker_ends_the_search(name: str, end: str, make: Make, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="got 3 that died over the same candidate .*; use fewer workers"):
        gather(make(name), requests(1, **{end: str(tmp_path)}, times=9))
    assert len(list(tmp_path.iterdir())) == 3


def test_an_unknown_factory_is_named() -> None:
    with ProcessExecutor("_factories:plane", {}, workers=1) as executor, pytest.raises(InputError, match="'plain'"):
        gather(executor, requests(1))


def test_a_ledger_on_workers_keeps_the_order_of_proposals(make: Make) -> None:
    proposals = [Proposal((float(k), 0.1), options={"sleep": 0.3 if k == 0 else 0.0}) for k in range(4)]
    told: list[int] = []
    with Ledger(
        Study(), make("processes"), lambda vector: PLAN, scored=lambda c: told.append(c.index), show=False
    ) as ledger:
        assert [c.score for c in ledger.score(proposals)] == [k + 0.1 for k in range(4)]
    assert told == [0, 1, 2, 3]


# ---------------------------------------------------------------- processes


def test_processes_start_when_they_are_needed_and_end_when_closed(make: Make) -> None:
    before = set(multiprocessing.active_children())
    executor = make("processes")
    assert list(executor.map([])) == [] and set(multiprocessing.active_children()) == before
    gather(executor, requests(1))
    assert len(set(multiprocessing.active_children()) - before) == 1  # a second has nothing to do
    figures = gather(executor, requests(6, tell=True, sleep=0.2))
    pids = {f["pid"] for f in figures}
    assert len(pids) == 2 and {f["parent"] for f in figures} == {os.getpid()}
    executor.close()
    executor.close()
    assert not any(map(lives, pids)) and set(multiprocessing.active_children()) == before
    assert gather(executor, requests(2)) == expected(2)  # it can be used again


def test_threads_of_a_worker_are_set_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with ProcessExecutor("_factories:plain", {}, workers=1, threads=3) as executor:
        assert gather(executor, requests(1, tell=True))[0]["threads"] == 3
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_worker_killed_from_outside_in_the_middle(make: Make) -> None:
    executor = make("processes")
    gather(executor, requests(2, sleep=0.2))
    (first, *_) = multiprocessing.active_children()

    def kill() -> None:
        time.sleep(0.3)
        os.kill(int(first.pid or 0), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert gather(executor, requests(6, sleep=0.2)) == expected(6)
    killer.join()
    assert not lives(int(first.pid or 0))


def test_leaving_in_the_middle_ends_what_nobody_waits_for(make: Make) -> None:
    executor = make("processes")
    asked = [requests(1)[0], *requests(3, sleep=60)[1:]]
    for position, _ in executor.map(asked):
        assert position == 0
        break
    assert gather(executor, requests(3)) == expected(3)


_MAIN = """
import sys
from test_executors import requests
from prunekit.core.executor import ProcessExecutor

if __name__ == "__main__":
    executor = ProcessExecutor("_factories:plain", {}, workers=2)
    for position, result in executor.map(requests(4, tell=True, sleep=0.3)):
        print(int(result.figures["pid"]), flush=True)
    if sys.argv[1] == "leave":
        sys.exit()
    list(executor.map(requests(4, sleep=60)))
"""


@pytest.mark.parametrize(
    "how", ["SIGINT", "SIGKILL", *(pytest.param(how, marks=pytest.mark.slow) for how in ("leave", "SIGTERM"))]
)
def test_no_worker_outlives_the_search(how: str, tmp_path: Path) -> None:
    script = tmp_path / "search.py"
    script.write_text(_MAIN)
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(
        [sys.executable, str(script), how], env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as search:  # fmt: skip
        assert search.stdout is not None and search.stderr is not None
        pids = {int(search.stdout.readline()) for _ in range(4)}
        if how == "SIGINT":  # of a terminal: it goes to the workers, too
            os.killpg(search.pid, signal.SIGINT)
        elif how != "leave":
            search.send_signal(getattr(signal, how))
        search.wait(30)
        gone = until(lambda: not any(map(lives, pids)))
        errors = search.stderr.read()
    assert len(pids) == 2 and gone
    assert errors.count("Traceback") == (1 if how == "SIGINT" else 0), errors


@pytest.mark.slow
def test_a_script_without_its_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "search.py"
    script.write_text(_MAIN.replace('if __name__ == "__main__":', "if True:"))
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run([sys.executable, script, "leave"], env=environment, capture_output=True, text=True)
    assert "WorkerError: workers must come up, got" in done.stderr and "(exit code 1)" in done.stderr


# ---------------------------------------------------------------- Ray, as far as none has to run


def test_ray_is_not_loaded_before_it_is_used(tmp_path: Path) -> None:
    code = "import sys, prunekit.core.executor, prunekit.cli.workers; print('ray' in sys.modules)"
    assert python(code, tmp_path).stdout.strip() == "False"


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        RayExecutor("_factories:plain", {}, workers=1) as executor,
        pytest.raises(MissingDependencyError, match=r"pip install 'prunekit\[ray\]'"),
    ):
        gather(executor, requests(1))


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", "c:\\x", "a\\..\\x"])
def test_files_of_workers_stay_in_their_folder(name: str) -> None:
    executor = RayExecutor("_factories:plain", {}, {name: b""}, workers=1)
    with executor, pytest.raises(InputError, match="relative name"):
        gather(executor, requests(1))
