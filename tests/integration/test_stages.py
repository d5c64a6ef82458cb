"""What ends a Ray program is said in one line: what a stage raised, not what Ray made of it."""

import errno

import pyarrow as pa
import pytest

from ray_asd.errors import BadInput, RunFailed
from ray_asd.pipelines import session
from ray_asd.pipelines.plan import Pool

pytestmark = pytest.mark.integration


class Fails:
    """A stage that raises."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, rows: pa.Table) -> pa.Table:
        raise self._error


def run(error: Exception) -> None:
    with session.session():
        stream = Pool.light().stage([pa.table({"a": [1]})], Fails, error=error)
        list(stream.iter_batches(batch_size=None, batch_format="pyarrow"))


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (RunFailed("scores: no room is left"), RunFailed, "scores: no room is left"),
        (BadInput("bundle: damaged"), BadInput, "bundle: damaged"),
        (OSError(errno.ENOSPC, "No space left"), RunFailed, "OSError: No space left"),
        (ValueError("3 is not 4\nat all"), RunFailed, "ValueError: 3 is not 4"),
    ],
)
def test_it_comes_out_as_it_was(
    held_ray: None, error: Exception, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind) as raised:
        run(error)
    assert type(raised.value) is kind
    assert str(raised.value) == says
