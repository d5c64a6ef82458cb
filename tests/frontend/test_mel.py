import numpy as np
import pytest
import torch
import torchaudio

from ray_asd import recipe
from ray_asd.frontend import LogMel, standardize

FRONT_END = recipe.load("first_shot").front_end


def noise(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    return standardize(rng.standard_normal(round(16_000 * seconds)).astype(np.float32))


@pytest.mark.parametrize("seconds", [2.0, 2.003, 10.0, 12.0])
def test_equal_to_torchaudio_on_the_whole_clip(seconds: float) -> None:
    clip = noise(seconds)
    reference = torchaudio.transforms.MelSpectrogram(
        sample_rate=16_000, n_fft=2048, hop_length=256, f_min=50, f_max=7800, n_mels=224, power=2
    )(torch.from_numpy(clip))
    linear = LogMel(recipe.FrontEnd(**{**FRONT_END.model_dump(), "scale": "linear"}))(clip)
    np.testing.assert_allclose(linear, reference, rtol=1e-4, atol=1e-3)
    expected = torch.log(reference + FRONT_END.floor)
    front_end = LogMel(FRONT_END)
    mel = front_end(clip)
    np.testing.assert_allclose(mel, expected, atol=1e-3)
    assert mel.shape == (224, front_end.frames(len(clip)))
    assert mel.dtype == np.float32


def test_a_tone_lights_the_band_that_holds_it() -> None:
    time = np.arange(32_000) / 16_000
    mel = LogMel(FRONT_END)(standardize(np.sin(2 * np.pi * 1000 * time).astype(np.float32)))

    def to_mel(hz: float) -> float:
        return 2595 * np.log10(1 + hz / 700)

    low, high = to_mel(50), to_mel(7800)
    expected = (to_mel(1000) - low) / (high - low) * 225 - 1
    assert abs(int(mel.mean(1).argmax()) - expected) < 1


def test_log_mel_fits_float16_with_room() -> None:
    rng = np.random.default_rng(0)
    click = np.zeros(160_000, dtype=np.float32)
    click[80_000] = 1.0
    hum = np.sin(2 * np.pi * 60 * np.arange(160_000) / 16_000).astype(np.float32)
    for clip in (click, hum, rng.standard_normal(160_000).astype(np.float32)):
        mel = LogMel(FRONT_END)(standardize(clip))
        np.testing.assert_allclose(mel.astype(np.float16), mel, atol=0.02)


NARROW = recipe.FrontEnd(**{**FRONT_END.model_dump(), "n_fft": 256, "mels": "bins"})


def test_bins_are_those_of_torchaudio_s_spectrogram() -> None:
    clip = noise(2.0)
    power = torchaudio.transforms.Spectrogram(n_fft=256, hop_length=256)(torch.from_numpy(clip))
    spectrum = LogMel(NARROW)(clip)
    assert spectrum.shape == (124, 126)
    assert spectrum.dtype == np.float32
    expected = torch.log(power[1:125] + NARROW.floor)
    np.testing.assert_allclose(spectrum, expected, atol=1e-3)


@pytest.mark.parametrize(("hz", "band"), [(62.5, 0), (1000, 15), (7750, 123)])
def test_a_tone_lights_its_bin(hz: float, band: int) -> None:
    time = np.arange(32_000) / 16_000
    spectrum = LogMel(NARROW)(standardize(np.sin(2 * np.pi * hz * time).astype(np.float32)))
    assert spectrum.mean(1).argmax() == band


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_mel_bands_that_hold_no_bin_are_counted() -> None:
    short = recipe.FrontEnd(**{**FRONT_END.model_dump(), "n_fft": 256})
    silent = (np.ptp(LogMel(short)(noise(2.0)), axis=1) == 0).sum()
    assert LogMel(short).empty_bands == silent == 55
    assert LogMel(FRONT_END).empty_bands == LogMel(NARROW).empty_bands == 0
