"""The request: a video from a text, or from a text and a picture."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from prefect_genmedia.providers import AS_GIVEN, GenerationRequest, InputUrl, MediaExpectation, RequestInput, SentInputs


class OpenAIVideo(GenerationRequest):
    """A video as `client.videos.create` of the OpenAI client asks for it; unset options are the gateway's choice."""

    provider: ClassVar[str] = "openai_videos"
    kind: ClassVar[str] = "openai_video"

    prompt: str = Field(min_length=1, description="What the video shows.")
    model: str = Field(default="sora-2", min_length=1, description="The model's name at the gateway.")
    seconds: str = Field(default="", pattern=r"^\d*$", description="Duration: 4, 8 or 12 at OpenAI.")
    size: str = Field(default="", pattern=r"^(\d+x\d+)?$", description="Width x height, such as 1280x720.")
    input_reference: InputUrl | None = Field(default=None, description="URL or path of a picture to begin with.")

    @property
    def default_model(self) -> str:
        """The model, as prices name it."""
        return self.model

    def body(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """The fields of `POST /videos`; a local picture is a `data:` URI, which the client sends as a file."""
        body: dict[str, Any] = {"prompt": self.prompt, "model": self.model}
        body |= {name: value for name in ("seconds", "size") if (value := getattr(self, name))}
        if self.input_reference is not None:
            file = inputs.base64(self.input_reference)
            url = f"data:{file.media_type};base64,{file.base64}" if file else inputs.url(self.input_reference)
            body["input_reference"] = {"image_url": url}
        return body

    def identity_inputs(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """All that changes the result; the picture by its unsigned URL or its content."""
        options = self.model_dump(mode="json", include={"prompt", "model", "seconds", "size"})
        if self.input_reference is not None:
            options["input_reference"] = inputs.identity(self.input_reference)
        return options

    def expectation(self) -> MediaExpectation:
        """The duration and the aspect ratio, where they are given."""
        width, _, height = self.size.partition("x")
        return MediaExpectation(
            seconds=float(self.seconds) if self.seconds else None,
            aspect_ratio=int(width) / int(height) if self.size else None,
        )

    def inputs(self) -> tuple[RequestInput, ...]:
        """The picture; the request may carry its bytes."""
        if self.input_reference is None:
            return ()
        return (RequestInput("input_reference", self.input_reference, inline=True, media="picture"),)
