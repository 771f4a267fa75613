"""What a result must be like, as far as its request and its inputs say."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from prefect_genmedia.providers.restoring import with_defaults


class MediaExpectation(BaseModel):
    """What the delivered file must be like to be what was asked for; None means that anything is right.

    Parameters:
        seconds: the duration.
        resolution_class: 720 or 1080: the asked class of resolution. Providers round sizes (1248×704 for 720), so the
            nearest class is compared, by the short side or by the number of pixels.
        aspect_ratio: width divided by height.
        has_audio: whether there must be (or must not be) a sound track.
        orientation_ratio: width divided by height of the input picture that the result is shaped like. It is not
            verified, since providers crop; the quality check `orientation` compares portrait and landscape.
        shows_face: whether a person's face is to be seen, for the quality check `face`.
    """

    model_config = ConfigDict(frozen=True)

    seconds: float | None = None
    resolution_class: int | None = None
    aspect_ratio: float | None = None
    has_audio: bool | None = None
    orientation_ratio: float | None = None
    shows_face: bool | None = None

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore a pickled expectation, also one of an earlier version."""
        super().__setstate__(with_defaults(type(self), state))
