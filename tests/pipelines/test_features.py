"""What is refused before anything is read. None of it starts Ray."""

import pytest

from ray_asd import recipe, tables
from ray_asd.errors import BadInput
from ray_asd.pipelines import features


@pytest.mark.parametrize(
    ("front_end", "says"),
    [
        ("{n_fft: 256}", r"mels 224: 55 of them are narrower than the bins of n_fft 256"),
        ("{scale: linear}", "scale linear: features are kept as float16"),
    ],
)
def test_front_ends_that_cannot_be_trained_with_are_refused(
    front_end: str, says: str, recwarn: pytest.WarningsRecorder
) -> None:
    chosen = recipe.load("demo", [f"upstream.backbones.transformer.front_end={front_end}"])
    nothing = tables.RECORDINGS.empty_table()
    with pytest.raises(BadInput, match=says) as caught:
        features.build(nothing, chosen, chosen.front_ends(), "nowhere")
    assert "\n" not in str(caught.value)
    assert not recwarn.list
