"""Ray itself: a local one of our own, or a cluster to join."""

import logging
import math
import os
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import ray
import ray.data
from ray._private import ray_constants
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from ray_asd import console
from ray_asd.errors import BadInput, RunFailed
from ray_asd.pipelines import core_log
from ray_asd.pipelines.join import join

# Of an actor pool's actors: Ray Data's own default is to try again for ever. An actor that dies
# often stays dead, and its tasks fail. Tries are many, since every call of an actor whose node is
# lost costs one until Ray has noticed.
BOUNDED_RETRIES = {"max_restarts": 3, "max_task_retries": 1000}

_STARTS = 2

# What a run's own last stage held is free again within seconds.
_LOOK_S = 0.5
_TELL_S = 10.0
_MOST_WAIT_S = 600.0

# Under `uv run`, Ray would otherwise start every worker through `uv run` again.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


@contextmanager
def session(address: str | None = None, cpus: int | None = None) -> Iterator[None]:
    """Hold a Ray for as long as the block runs.

    Args:
        address: None starts a local Ray, on the loopback interface and with a token that lives
            as long as this process; ``auto`` or an address joins a cluster.
        cpus: cores of a local Ray; all of this machine's where None.

    A Ray that this process already holds is used as it is, and left running.

    What Ray prints goes to standard error (it warns on standard output until it has ended): a
    result in JSON stays one.

    Raises:
        BadInput: the cluster at ``address`` cannot be joined; :func:`join` says why.
        RunFailed: a local Ray does not start.
    """
    with redirect_stdout(sys.stderr), ExitStack() as held:
        if not ray.is_initialized():
            # Ray's core writes to standard error of what Ray Data does itself: actors whose
            # arguments lie in the object store.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            if address is None or address == "local":
                _own_token()
                held.enter_context(_on_loopback())
                _start(cpus)
            else:
                join(address)
            held.callback(ray.shutdown)
        _quiet_data()
        held.enter_context(_in_a_line())
        yield


@contextmanager
def _in_a_line() -> Iterator[None]:
    """What a task raised is raised here as it was, and Ray's own errors as :class:`RunFailed`."""
    try:
        yield
    except RayError as error:
        raise (our_own(error) or RunFailed(in_a_line(error))) from error


def our_own(error: BaseException) -> BadInput | RunFailed | None:
    """The one that a task raised inside of what Ray made of it, if it is one of ours."""
    cause = _cause(error)
    return type(cause)(_first_line(cause)) if isinstance(cause, BadInput | RunFailed) else None


def in_a_line(error: BaseException) -> str:
    """What went wrong inside of what Ray made of it."""
    cause = _cause(error)
    return f"{type(cause).__name__}: {_first_line(cause)}"


def _cause(error: BaseException) -> BaseException:
    while isinstance(inner := getattr(error, "cause", None), BaseException):
        error = inner
    return error


def _first_line(error: BaseException) -> str:
    """Ray Data adds lines of advice on its own settings to what a stage raises."""
    text = getattr(error, "strerror", None) or str(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


@contextmanager
def lazily(address: str | None = None) -> Iterator[Callable[[], None]]:
    """Yields a function that holds a Ray from its first call to the end of the block.

    A run that finds nothing to do starts none.
    """
    with ExitStack() as held:
        started = False

        def hold() -> None:
            nonlocal started
            if not started:
                held.enter_context(session(address))
                started = True

        yield hold


def cores() -> int:
    """CPU cores of the Ray that is held, or of this machine; at least 1."""
    if not ray.is_initialized():
        return os.cpu_count() or 1
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def cores_by_node() -> list[float]:
    """CPU cores of each node that is alive and has any."""
    found = (node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    return [cpus for cpus in found if cpus] or [1]


class GpuNode(NamedTuple):
    """A node that has GPUs."""

    cpus: float
    gpus: int


def gpu_nodes() -> list[GpuNode]:
    """The nodes that are alive and have both CPU cores and GPUs."""
    found = (node["Resources"] for node in ray.nodes() if node["Alive"])
    nodes = [GpuNode(there.get("CPU", 0.0), int(there.get("GPU", 0))) for there in found]
    return [node for node in nodes if node.cpus and node.gpus]


def wait_for(needed: dict[str, float]) -> None:
    """Wait until so much of each resource (``CPU``, ``GPU``) is free, and say what is missing.

    Raises:
        RunFailed: other jobs hold it for longer than ten minutes.
    """
    began, told = time.monotonic(), False
    while missing := _missing(needed):
        waited = time.monotonic() - began
        if waited > _MOST_WAIT_S:
            raise RunFailed(
                f"{missing}, for {waited / 60:.0f} minutes; end those jobs, or wait for them, and "
                "run the same command again"
            )
        if waited > _TELL_S and not told:
            told = True
            console.say(f"waiting: {missing}")
        time.sleep(_LOOK_S)


def _missing(needed: dict[str, float]) -> str:
    """What there is too little of, in words; empty where all is there."""
    free, there = ray.available_resources(), ray.cluster_resources()
    short = [
        f"{needed[kind]:g} {kind} needed, {free.get(kind, 0):g} of {there.get(kind, 0):g} free"
        for kind in needed
        if free.get(kind, 0) < needed[kind] - 1e-6
    ]
    return f"{', '.join(short)}: other jobs hold the rest (`ray job list`)" if short else ""


def nodes_by_core() -> list[str]:
    """The nodes' ids, each as often as it has cores: first of every node one core, and so on."""
    turns = [
        (turn, node["NodeID"])
        for node in ray.nodes()
        if node["Alive"]
        for turn in range(math.ceil(node["Resources"].get("CPU", 0)))
    ]
    return [node for _, node in sorted(turns)]


def gpus() -> int:
    """GPUs of the Ray that is held."""
    return int(ray.cluster_resources().get("GPU", 0))


def _own_token() -> None:
    """Give a local Ray a token of its own, in the environment of this process and its children.

    Ray turns token authentication on by itself; without a token at hand, Ray 2.60 writes one
    into the home directory, readable by others.
    """
    kept = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", os.path.expanduser("~/.ray/auth_token")))
    if "RAY_AUTH_TOKEN" not in os.environ and not kept.exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def _start(cpus: int | None) -> None:
    """Start a local Ray; once more where the first try fails, since a busy machine may be slow.

    Ray waits 30 s for its own daemons, and no setting changes that.

    Raises:
        RunFailed: it does not start.
    """
    for attempt in range(_STARTS):
        try:
            with core_log.without(core_log.LOG_LEVEL):
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                )
        except Exception as error:
            ray.shutdown()
            if attempt + 1 == _STARTS:
                lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
                raise RunFailed(f"a local Ray did not start: {lines[0].strip()}") from error
        else:
            return


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Bind every port of a Ray that is started in the block to the loopback interface.

    ``_node_ip_address="127.0.0.1"`` does not do it: Ray resolves that to the machine's own
    address, and its servers listen on every interface. The variable is Ray's own switch for
    one-machine systems; Ray reads it once, at import, so the constant is set beside it.
    """
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        # Whoever has a cluster on the loopback interface has set it, and joins it with it.
        if before[0] is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before[0]
        ray_constants.ENABLE_RAY_CLUSTER = before[1]


def _quiet_data() -> None:
    """Our own progress is shown instead of Ray Data's, and its log goes to its files only."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.max_errored_blocks = 0
    # Else all that a stage raises comes as one and the same error, without its cause.
    context.raise_original_map_exception = True
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # The minor version is pinned; what 2.64 removes is looked at when the pin moves.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
