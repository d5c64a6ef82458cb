"""A clip's waveform → its spectrogram by one front end, one STFT per clip."""

import numpy as np
import numpy.typing as npt
import torch
import torchaudio

from ray_asd.errors import Reason, Rejected
from ray_asd.frontend.clips import Waveform
from ray_asd.recipe import FrontEnd

Mel = npt.NDArray[np.float32]


class LogMel:
    """Power spectrogram of a whole clip: Hann window, frames centred, HTK mel bands or plain bins.

    Equal to ``torchaudio.transforms.MelSpectrogram`` (power 2, no norm) followed by
    ``log(mel + floor)``, or, under ``mels: bins``, to its ``Spectrogram`` from ``low_hz`` to
    ``high_hz``; window and filters are kept, since building them anew costs more than using them.

    >>> from ray_asd import recipe
    >>> LogMel(recipe.load("first_shot").front_end)(np.random.randn(32000).astype("f4")).shape
    (224, 126)
    """

    def __init__(self, settings: FrontEnd) -> None:
        self.settings = settings
        self._window = torch.hann_window(settings.n_fft)
        self._filters: torch.Tensor | None = None
        if settings.mels != "bins":
            self._filters = torchaudio.functional.melscale_fbanks(
                n_freqs=settings.n_fft // 2 + 1,
                f_min=settings.low_hz,
                f_max=settings.high_hz,
                n_mels=settings.mels,
                sample_rate=settings.sample_rate_hz,
            ).T.contiguous()

    @property
    def empty_bands(self) -> int:
        """Mel bands so narrow that no bin of the STFT falls into them: they hear nothing."""
        return 0 if self._filters is None else int((self._filters.sum(1) == 0).sum())

    def frames(self, samples: int) -> int:
        """Number of frames of a clip of ``samples`` samples: one at every hop, from the first."""
        return 1 + samples // self.settings.hop

    def __call__(self, clip: Waveform) -> Mel:
        """Spectrogram ``(bands, frames)``, float32, of a standardized clip ``(samples,)``.

        Natural logarithm of the power under ``scale: log``, the power itself under ``linear``.

        Raises:
            Rejected: ``not_finite`` where the result is not.
        """
        settings = self.settings
        with torch.inference_mode():
            spectrum = torch.stft(
                torch.from_numpy(clip),
                n_fft=settings.n_fft,
                hop_length=settings.hop,
                window=self._window,
                center=True,
                pad_mode="reflect",
                return_complex=True,
            )
            parts = torch.view_as_real(spectrum)
            power = parts.square_().sum(-1)
            if self._filters is None:
                mel = power[settings.bins.start : settings.bins.stop].contiguous()
            else:
                mel = self._filters @ power
            if settings.scale == "log":
                mel = mel.add_(settings.floor).log_()
            if not bool(torch.isfinite(mel).all()):
                raise Rejected(Reason.NOT_FINITE, "the mel spectrogram holds NaN or infinity")
            result: Mel = mel.numpy()
            return result
