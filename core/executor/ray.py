"""Candidates evaluated on a Ray cluster, or on a Ray of this machine alone."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import re
import signal
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from prunekit.core.errors import InputError, MissingDependencyError, WorkerError
from prunekit.core.executor._remote import RemoteExecutor
from prunekit.core.executor._threads import count_cores, share_out, thread_variables
from prunekit.core.executor._wire import Servant

__all__ = ["RayExecutor", "check_ray"]

logger = logging.getLogger("prunekit.executor")

_LOOK_EVERY = 5.0  # seconds of silence until the cluster is looked at
_START = "was it started by `ray start --head`"
_STORE = 128 << 20  # bytes of object store for a Ray of our own, besides the files


@dataclass(eq=False)
class _Hand:
    """An actor, the answer that it owes, and the node it is on, once it is known."""

    actor: Any
    owed: Any
    asked: Any
    node: str = ""
    reason: str = "it hung up"


class RayExecutor(RemoteExecutor[_Hand]):
    """Evaluates in actors on a Ray cluster.

    The nodes need the same prunekit and framework, and the data set at the same place, but no common disk: what else
    a worker needs is sent to it.

    Example:
        >>> executor = RayExecutor("my_project.search:open_evaluation", {"seed": 1}, address="auto", workers=8)
        >>> executor.workers, executor.close()  # nothing was started yet
        (8, None)

    Args:
        factory: ``"module:function"``; called in each worker, it returns what evaluates there.
        arguments: Its keyword arguments: plain data.
        files: Files that workers need, by relative name, or a function that reads them when the first worker is
            started. Each worker finds them in a temporary folder, which ``factory`` is told as ``folder`` and which
            is gone once that has returned.
        address: ``"auto"`` or ``"host:port"`` of a cluster to join; None starts a Ray on this machine.
        workers: How many actors; None takes as many as the cluster has room for when the first is started.
        threads: Processor cores, and threads, of each. None is one on a cluster, and an even share on this machine.
        device: ``"cuda"`` asks for one GPU for each worker, too.
    """

    def __init__(
        self,
        factory: str,
        arguments: Mapping[str, Any],
        files: Mapping[str, bytes] | Callable[[], Mapping[str, bytes]] | None = None,
        address: str | None = None,
        workers: int | None = None,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        cores = count_cores() if address is None else 1
        count, self.threads = share_out(workers, threads, cores)
        super().__init__(count)
        self._factory, self._arguments, self._files = factory, dict(arguments), files
        self._address, self._device, self._fill = address, device, workers is None
        self.answers: Counter[str] = Counter()
        """How many answers came from each node, by its id."""
        self._cluster: _Cluster | None = None
        self._stored: Any = None

    def _start(self) -> _Hand:
        if self._cluster is None:
            self._join()
        assert self._cluster is not None
        ray = self._cluster.ray
        kind = ray.remote(_Actor).options(
            num_cpus=self.threads,
            num_gpus=1 if self._device == "cuda" else 0,
            scheduling_strategy="SPREAD",
            max_restarts=0,
            runtime_env={"env_vars": thread_variables(self.threads)},
        )
        actor = kind.remote(self._factory, self._arguments, self._stored)
        node = actor.node.remote()
        return _Hand(actor, actor.open.remote(), node)

    def _join(self) -> None:
        """Join the cluster and give it the files."""
        files = self._files() if callable(self._files) else self._files
        for name in files or ():
            _check_name(name)
        size = sum(map(len, (files or {}).values()))
        cluster = _Cluster(self._address, max(count_cores(), self.workers * self.threads), _STORE + 2 * size)
        self._cluster = cluster
        if self._fill and self._address is not None:
            self.workers = max(1, cluster.room(self._needs))
        self._stored = cluster.ray.put(dict(files)) if files is not None else None

    @property
    def _needs(self) -> dict[str, float]:
        return {"CPU": self.threads, **({"GPU": 1} if self._device == "cuda" else {})}

    def _send(self, hand: _Hand, text: str) -> None:
        hand.owed = hand.actor.answer.remote(text)

    def _wait(self, hands: Sequence[_Hand]) -> list[tuple[_Hand, str | None]]:
        assert self._cluster is not None
        ray = self._cluster.ray
        owed = {hand.owed: hand for hand in hands}
        if not ray.wait(list(owed), num_returns=1, timeout=_LOOK_EVERY)[0]:
            self._check_room()
            return []
        heard: list[tuple[_Hand, str | None]] = []
        for answer in ray.wait(list(owed), num_returns=len(owed), timeout=0)[0]:
            hand = owed[answer]
            try:
                heard.append((hand, ray.get(answer)))
                self._note_node(hand)
                self.answers[hand.node] += hand in self._busy
            except ray.exceptions.RayError as error:
                hand.reason = _first_line(error)
                heard.append((hand, None))
        return heard

    def _check_room(self) -> None:
        """Where all wait for a place, make sure that there is a node that could give one."""
        assert self._cluster is not None
        if not self._busy and not self._idle and self._cluster.room(self._needs) == 0:
            needs = ", ".join(f"{value:g} {name}" for name, value in self._needs.items())
            raise WorkerError(
                f"a cluster must have a node with {needs} for a worker, got {self._cluster}; start nodes, then "
                "continue the search"
            )

    def _why(self, hand: _Hand) -> str:
        return hand.reason

    def _stop(self, hand: _Hand) -> None:
        assert self._cluster is not None
        with contextlib.suppress(self._cluster.ray.exceptions.RayError, ValueError):
            self._cluster.ray.kill(hand.actor)

    def _note_node(self, hand: _Hand) -> None:
        assert self._cluster is not None
        if not hand.node:
            with contextlib.suppress(self._cluster.ray.exceptions.RayError):
                hand.node = self._cluster.ray.get(hand.asked, timeout=0.1)

    def close(self) -> None:
        """End the workers, whatever they do, and leave the cluster."""
        super().close()
        cluster, self._cluster, self._stored = self._cluster, None, None
        if cluster is not None:
            cluster.leave()


class _Cluster:
    """The connection to a Ray; what somebody else connected stays connected."""

    def __init__(self, address: str | None, cores: int, store: int) -> None:
        self.ray = _import_ray()
        self._ours = not self.ray.is_initialized()
        self._printer: Any = None
        if not self._ours:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray would hide all GPUs from actors that ask for none, and says that it will not in future
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if address not in (None, "auto"):
            _check_reachable(str(address))
        own = {} if address is not None else {"num_cpus": cores, "object_store_memory": store}
        try:
            with _kept_signals():
                self.ray.init(
                    address=address or "local",
                    include_dashboard=None if address else False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **own,
                )
        except Exception as error:  # Ray raises errors of many kinds
            self.ray.shutdown()
            where = f"a cluster must run at {address!r}" if address else "a Ray must start on this machine"
            advice = f"{_START}, and is RAY_AUTH_TOKEN its own?" if address else "use executor=processes"
            raise WorkerError(f"{where}, got {_first_line(error)}; {advice}") from error
        self._hush()

    def _hush(self) -> None:
        """Keep what Ray says of dead workers out of the standard output; it has no option for that."""
        place = self.ray._private.worker
        self._printer = getattr(place, "print_to_stdstream", None)
        if self._printer is not None:
            place.print_to_stdstream = lambda data, *_, **__: logger.debug("ray: %s", data.get("lines"))

    def room(self, needs: Mapping[str, float]) -> int:
        """How many workers the living nodes could hold, were they free."""
        return sum(
            int(min(node["Resources"].get(name, 0) // count for name, count in needs.items()))
            for node in self.ray.nodes()
            if node["Alive"]
        )

    def leave(self) -> None:
        """Disconnect, and end the Ray that was started here."""
        if not self._ours:
            return
        self.ray.shutdown()
        if self._printer is not None:
            self.ray._private.worker.print_to_stdstream = self._printer

    def __str__(self) -> str:
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        held = (", ".join(f"{n['Resources'].get(k, 0):g} {k}" for k in ("CPU", "GPU")) for n in alive)
        return f"{len(alive)} living nodes ({'; '.join(held)})"


def _check_reachable(address: str) -> None:
    """Ask before Ray does, which tries for two minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_LOOK_EVERY).close()
    except (OSError, ValueError, OverflowError) as error:
        raise WorkerError(f"a cluster must run at {address!r}, got {_first_line(error)}; {_START}?") from error


def check_ray() -> None:
    """Make sure that Ray is installed, without starting anything.

    Raises:
        MissingDependencyError: It is not.
    """
    if importlib.util.find_spec("ray") is None:
        _import_ray()


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingDependencyError(
            "executor ray needs ray, which is not installed; "
            "run `pip install 'prunekit[ray]'`, or use executor=processes"
        ) from error


@contextlib.contextmanager
def _kept_signals() -> Iterator[None]:
    """Ray sets a handler of its own for SIGTERM; the one that was there stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Actor:
    """A worker on a node."""

    def __init__(self, factory: str, arguments: Mapping[str, Any], files: Mapping[str, bytes] | None) -> None:
        self._factory, self._arguments, self._files = factory, dict(arguments), files
        self._servant: Servant | None = None

    def node(self) -> str:
        """The node that this is on."""
        return str(_import_ray().get_runtime_context().get_node_id())

    def open(self) -> str:
        """Make the evaluation from the files; see :meth:`Servant.open`."""
        files, self._files = self._files, None
        if files is None:
            self._servant = Servant(self._factory, self._arguments)
            return self._servant.open()
        # gone once it is made, because a worker that is killed later could remove nothing any more
        with tempfile.TemporaryDirectory(prefix="prunekit-") as folder:
            for name, content in files.items():
                _check_name(name)
                place = Path(folder, name)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            self._servant = Servant(self._factory, {**self._arguments, "folder": folder})
            return self._servant.open()

    def answer(self, text: str) -> str:
        """Evaluate a request; see :meth:`Servant.answer`."""
        assert self._servant is not None
        return self._servant.answer(text)


def _check_name(name: str) -> None:
    """Refuse names that lead out of a folder."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or "\\" in name:
        raise InputError(f"a file for workers must have a relative name, got {name!r}; name it from the run's folder")


def _first_line(error: BaseException) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
