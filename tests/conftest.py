"""What all tests share: a home of their own, a small fleet, and one Ray."""

import logging
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from pyarrow import fs

from ray_asd.archive import fleet

# No test asserts a time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a library writes into the home directory lands in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("ADDRESS", "AUTH_MODE", "AUTH_TOKEN", "AUTH_TOKEN_PATH"):
            patch.delenv(f"RAY_{name}", raising=False)
        # Of the store that some tests serve, and here since Ray's workers have the environment
        # of the process that started them.
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            patch.setenv(f"AWS_{name}", "test")
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings and score oracles; tests that need them skip where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("no shared data beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def small_fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fan and a valve: 15 training clips and 12 test clips each, 3 s long. Read only."""
    root = tmp_path_factory.mktemp("fleet")
    fleet.synthesize(
        str(root),
        machine_types=("fan", "valve"),
        train_source=12,
        train_target=3,
        test_per_cell=3,
        duration_s=3.0,
        seed=1,
    )
    return root


@pytest.fixture(scope="session")
def held_ray(_own_home: None) -> Iterator[None]:
    """One local Ray for all integration tests."""
    from ray_asd.pipelines import session

    with session.session(cpus=2):
        yield


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket, served by moto on the loopback interface."""

    endpoint: str
    name: str

    def uri(self, *names: str) -> str:
        """A place in the bucket, as pyarrow.fs reads it."""
        path = "/".join([self.name, *names])
        return f"s3://{path}?scheme=http&region=us-east-1&endpoint_override={self.endpoint}"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Host and port of a store that speaks S3, in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str) -> Bucket:
    """A new bucket."""
    return make_bucket(s3_endpoint)


def make_bucket(endpoint: str) -> Bucket:
    """A new bucket in the store there."""
    made = Bucket(endpoint, f"bucket-{uuid.uuid4().hex[:12]}")
    filesystem = fs.S3FileSystem(
        endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True
    )
    filesystem.create_dir(made.name)
    return made


TINY = [
    "clips.segments=3",
    "upstream.backbones.transformer.layers=1",
    "upstream.backbones.transformer.width=32",
    "upstream.backbones.transformer.heads=2",
    "upstream.backbones.transformer.feed_forward=32",
    "upstream.batch=8",
    "downstream.folds=2",
    "downstream.pseudo_normals=5",
]


@dataclass(frozen=True)
class System:
    """A small trained system and where its parts lie."""

    fleet: Path
    manifest: str
    upstream: str
    bundle: str
    scores: str


@pytest.fixture(scope="session")
def system(small_fleet: Path, held_ray: None, tmp_path_factory: pytest.TempPathFactory) -> System:
    """The whole path once over the small fleet, with the Transformer: processes that import no
    timm start in half the time, and there are dozens of them."""
    place = tmp_path_factory.mktemp("system")
    recipe = place / "transformer.yaml"
    recipe.write_text("extends: demo\nupstream: {backbones: {efficientnet: null}}\n")
    return run_whole_path(small_fleet, place, str(recipe))


def run_whole_path(root: Path, place: Path, recipe: str) -> System:
    """index, train, fit and score, with a recipe made tiny."""
    import ray_asd

    made = System(
        root,
        *(str(place / name) for name in ("manifest.parquet", "upstream", "bundle", "scores")),
    )
    ray_asd.index(str(root), made.manifest)
    ray_asd.train(
        made.manifest,
        made.upstream,
        recipe=recipe,
        settings=[*TINY, "upstream.epochs=2", "upstream.checkpoint_epochs=1"],
        workers=2,
    )
    ray_asd.fit(made.manifest, made.upstream, made.bundle)
    ray_asd.score(made.manifest, made.bundle, made.scores, split="test")
    return made


def run_cli(
    *arguments: str, capfd: pytest.CaptureFixture[str], columns: int = 200
) -> tuple[int, str, str]:
    """Run the command line in this process; returns exit code, standard output and error."""
    from ray_asd import cli

    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ray-asd", *arguments])
        patch.setenv("COLUMNS", str(columns))
        try:
            cli.main()
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(bool(left.code))
    printed = capfd.readouterr()
    return code, printed.out, printed.err


def children_of(pid: int) -> dict[int, str]:
    """Command lines of the processes that descend from ``pid``, by their ids."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # the name stands in parentheses and may hold anything
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue  # it has ended meanwhile
        parents[int(folder.name)] = int(after_name[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: names[child] for child in found - {pid}}
