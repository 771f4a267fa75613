"""The HiDream request: a video in another style (HiDream's page, "请求参数")."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, field_serializer, field_validator, model_validator
from typing_extensions import Self

from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.hidream import catalog
from prefect_genmedia.providers.inputs import (
    AS_GIVEN,
    InputUrl,
    PublicUrl,
    RequestInput,
    SentInputs,
    identity_of_base64,
)
from prefect_genmedia.providers.protocol import GenerationRequest


def fits_a_header(value: str) -> str:
    """Let a text through that a header can hold.

    Raises:
        ValueError: it cannot; the sentence says why.
    """
    if not value.isascii() or (value and not value.isprintable()):
        raise ValueError("must hold ASCII characters only, and no line breaks")
    return value


UserId = Annotated[str, Field(max_length=200), AfterValidator(str.strip), AfterValidator(fits_a_header)]
"""A user's id, as a header."""


class StylizedVideo(GenerationRequest):
    """A video redrawn in a style, or as a prompt describes."""

    provider: ClassVar[str] = "hidream"
    kind: ClassVar[str] = "stylize"

    video_url: InputUrl | None = Field(default=None, description="URL or path of the video.")
    video_base64: str | None = Field(
        default=None, min_length=1, repr=False, description="The video's bytes as base64 text, in place of its URL."
    )
    prompt: str = Field(
        default="", description="Describes how the video is to look; instead of a style, or in addition to it."
    )
    style: catalog.StyleName | None = Field(default=None, description=f"The style: {catalog.STYLE_CHOICES}.")
    request_id: str = Field(
        default="",
        description="An id of your own for this call, which HiDream gives back.",
    )
    api_user_id: UserId = Field(
        default="",
        description="Sent as API-User-ID with this call and with the polls of its job; by default the Block's user id.",
    )
    notify_url: PublicUrl | None = Field(
        default=None,
        description="Public URL that HiDream POSTs to at the end: main_task_id and sub_task_results, unsigned.",
    )

    @field_validator("video_base64")
    @classmethod
    def _is_base64(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if value.startswith("data:"):
            raise ValueError("must be the base64 text alone, without data:…;base64,")
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("is not base64 text") from None
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = []
        if (self.video_url is None) == (self.video_base64 is None):
            problems.append(FieldProblem("video_url", "give video_url or video_base64, one of them"))
        if not self.prompt and self.style is None:
            problems.append(FieldProblem("style", "give a style, a prompt, or both"))
        if problems:
            # Not a ValueError: what is checked after the fields is past the base's own wording of problems.
            raise InvalidRequest.of(f"{type(self).__name__} request", problems)
        return self

    @field_serializer("video_base64", when_used="json-unless-none")
    def _digest(self, value: str) -> str:
        # JSON is what ledgers, sidecars and cards show of a request: megabytes of text say nothing there.
        return f"{len(value)} characters, sha256:{_sha256(value)}"

    @property
    def default_model(self) -> str:
        """The endpoint's name: HiDream names no model here."""
        return catalog.MODEL

    def body(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """The JSON of the submission; what the user did not set is left out."""
        body: dict[str, Any] = {}
        if self.prompt:
            body["prompt"] = self.prompt
        body["video_name"] = self.video_base64 if self.video_url is None else _video_name(self.video_url, inputs)
        if self.style is not None:
            body["style"] = self.style
        if self.request_id:
            body["request_id"] = self.request_id
        if self.notify_url is not None:
            body["notify_url"] = self.notify_url
        return body

    def notifying(self, callback_url: str | None) -> Self:
        """The same request, with word of its end sent to `callback_url`, unless the user named another place."""
        if callback_url is None or self.notify_url is not None:
            return self
        return self.model_copy(update={"notify_url": callback_url})

    def identity_inputs(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """Video, prompt and style. The call's name and its callback do not make it another request."""
        return {
            "video": inputs.identity(self.video_url) if self.video_url else identity_of_base64(self.video_base64 or ""),
            "prompt": self.prompt,
            "style": self.style,
        }

    def inputs(self) -> tuple[RequestInput, ...]:
        """The video, which may also travel as base64 (HiDream's page, "video_name")."""
        return (
            () if self.video_url is None else (RequestInput("video_url", self.video_url, inline=True, media="video"),)
        )


def _video_name(url: str, inputs: SentInputs) -> str:
    sent = inputs.base64(url)
    return sent.base64 if sent is not None and sent.base64 is not None else inputs.url(url)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
