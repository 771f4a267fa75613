"""The one kind of request: a clip of a picture."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr
from typing_extensions import Self

from prefect_genmedia.providers import (
    AS_GIVEN,
    GenerationRequest,
    InputUrl,
    MediaExpectation,
    PublicUrl,
    RequestInput,
    SentInputs,
)


class AcmeClip(GenerationRequest):
    """A picture that moves for five seconds, presented by one of Acme's presenters."""

    provider: ClassVar[str] = "acme"
    kind: ClassVar[str] = "clip"

    picture: InputUrl = Field(description="URL or path of a picture.")
    mood: Literal["calm", "wild"] = Field(default="calm", description="How the picture moves.")
    presenter: str = Field(default="", description="Name of a presenter, such as Robin; empty for none.")
    notify: PublicUrl | None = Field(default=None, description="URL that Acme POSTs to at the end.")

    _presenter_id: str | None = PrivateAttr(default=None)

    @property
    def default_model(self) -> str:
        """Acme has one model."""
        return "acme-1"

    def body(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """The JSON of `POST /clips`."""
        body = {"picture": inputs.url(self.picture), "mood": self.mood}
        if self._presenter_id is not None:
            body["presenter_id"] = self._presenter_id
        if self.notify is not None:
            body["notify"] = self.notify
        return body

    def identity_inputs(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """The presenter by name: its id is another one every day. Where Acme reports the end is no part of it."""
        return {"picture": inputs.identity(self.picture), "mood": self.mood, "presenter": self.presenter}

    def expectation(self) -> MediaExpectation:
        """Five seconds without sound."""
        return MediaExpectation(seconds=5.0, has_audio=False)

    def inputs(self) -> tuple[RequestInput, ...]:
        """The picture; Acme takes a URL only."""
        return (RequestInput("picture", self.picture, media="picture"),)

    def notifying(self, callback_url: str | None) -> Self:
        """The same clip, with a callback at its end."""
        if callback_url is None or self.notify is not None:
            return self
        return self.model_copy(update={"notify": callback_url})

    def stale_at(self) -> float | None:
        """A presenter's name must become an id before the request can be sent."""
        return float("-inf") if self.presenter and self._presenter_id is None else None

    def with_presenter(self, presenter_id: str) -> Self:
        """The same clip, with the presenter's id."""
        chosen = self.model_copy()
        chosen._presenter_id = presenter_id
        return chosen
