"""The OmniHuman 1.5 request: a portrait speaks a recording (TokenOps' page, "数字人视频生成参数说明")."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator
from typing_extensions import Self

from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.inputs import AS_GIVEN, InputUrl, RequestInput, Seed, SentInputs
from prefect_genmedia.providers.protocol import DurationSource, GenerationRequest, MediaExpectation
from prefect_genmedia.providers.tokenops import catalog
from prefect_genmedia.providers.tokenops.subjects import ASK, NOBODY, OnFailure, SubjectSelection, parse_subject


class OmniHumanVideo(GenerationRequest):
    """A talking avatar from one picture and one recording."""

    provider: ClassVar[str] = "tokenops"
    kind: ClassVar[str] = "omnihuman"
    technical_fields: ClassVar[frozenset[str]] = frozenset({"req_key", "masks_as", "mask_urls", "on_detection_failure"})
    decides: ClassVar[Mapping[str, frozenset[str]]] = {
        **dict.fromkeys(("prompt", "mask_urls", "pe_fast_mode", "seed"), frozenset[str]()),
        "output_resolution": frozenset({"resolution_class"}),
        "content": frozenset({"seconds", "has_audio"}),
    }

    image_url: InputUrl = Field(description="URL or path of the portrait; a clear picture from the front is best.")
    audio_url: InputUrl = Field(description="URL or path of the recording to speak; shorter than 60 seconds.")
    prompt: str = Field(default="", description="How to speak and move; 300 characters or fewer are recommended.")
    mask_urls: Annotated[tuple[InputUrl, ...], Field(max_length=catalog.MAX_MASKS)] = Field(
        default=(),
        description="Masks from subject detection, valid for 1 hour: only people in their white areas speak.",
    )
    masks_as: Literal["mask_urls", "content"] = Field(
        default="mask_urls",
        description="Send masks in `mask_urls`, or as content elements with `role: mask_image`.",
    )
    subject: str = Field(
        default="",
        description="The user's own words for whom the masks show, such as `largest`; stands for the masks in the "
        "job's identity, since mask URLs differ at each detection. `none` sends no masks. Not sent.",
    )
    on_detection_failure: OnFailure = Field(
        default="fail",
        description="What happens if the call that detects subjects fails: fail, or continue without masks. Not sent.",
    )
    output_resolution: catalog.OutputResolution = Field(
        default=1080, description="Resolution class of the video: 720 or 1080."
    )
    pe_fast_mode: bool = Field(default=False, description="Faster generation at lower quality.")
    seed: Seed = Field(default=-1, description="Random seed; -1 lets the provider choose.")
    model: str = Field(default=catalog.OMNIHUMAN_MODEL, min_length=1, description="The model's name at TokenOps.")
    req_key: str = Field(default=catalog.OMNIHUMAN_REQ_KEY, min_length=1, description="The service's name at TokenOps.")

    _chosen_at: float | None = PrivateAttr(default=None)

    @field_validator("subject")
    @classmethod
    def _subject_is_understood(cls, value: str) -> str:
        if value and value != ASK and parse_subject(value) == NOBODY:
            return NOBODY
        return value

    @model_validator(mode="after")
    def _nobody_has_no_masks(self) -> Self:
        problems = []
        if self.subject == NOBODY and self.mask_urls:
            problems.append(FieldProblem("subject", "give masks or the subject none, not both"))
        if self.subject == ASK and self.on_detection_failure == "continue":
            problems.append(FieldProblem("on_detection_failure", "a person who is asked must see who was detected"))
        if problems:
            raise InvalidRequest.of(f"{type(self).__name__} request", problems)
        return self

    @property
    def names_subject(self) -> bool:
        """Whether masks stand for somebody whom a detection must find."""
        return self.subject not in ("", NOBODY)

    def with_subject(self, selection: SubjectSelection) -> OmniHumanVideo:
        """The same request, spoken by whom `select_subject` chose."""
        chosen = OmniHumanVideo.model_validate(
            {**self.model_dump(exclude_unset=True), "mask_urls": selection.mask_urls, "subject": selection.subject}
        )
        chosen._chosen_at = time.time()
        return chosen

    def normalized(self) -> OmniHumanVideo:
        """The subject in the words that selection gives it: `0.50,0.4` and `0.5,0.4` are the same point."""
        if not self.subject:
            return self
        wanted = parse_subject(self.subject)
        words = f"{wanted[0]:g},{wanted[1]:g}" if isinstance(wanted, tuple) else str(wanted)
        return self.model_copy(update={"subject": words})  # nobody was looked for: `stale_at` stays as it is

    @property
    def default_model(self) -> str:
        """The model's name at TokenOps."""
        return self.model

    def body(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """The JSON of `POST /videos`; what the user did not set is left to the documented default."""
        content = [
            {"type": "image_url", "image_url": {"url": inputs.url(self.image_url)}},
            {"type": "audio_url", "audio_url": {"url": inputs.url(self.audio_url)}},
        ]
        body: dict[str, Any] = {"model": self.model, "req_key": self.req_key}
        if self.prompt:
            body["prompt"] = self.prompt
        body |= {"generation_type": "omni_human", "output_resolution": self.output_resolution, "content": content}
        masks = [inputs.url(url) for url in self.mask_urls]
        if masks and self.masks_as == "mask_urls":
            body["mask_urls"] = masks
        elif masks:
            content += [{"type": "image_url", "role": "mask_image", "image_url": {"url": url}} for url in masks]
        body |= self.model_dump(include={"pe_fast_mode", "seed"} & self.model_fields_set)
        return body

    def identity_inputs(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """Everything but how masks travel; the subject's name in place of its masks where it is known."""
        options = self.model_dump(mode="json", exclude={"mask_urls", "masks_as", "subject", "on_detection_failure"})
        options["image_url"] = inputs.identity(self.image_url)
        options["audio_url"] = inputs.identity(self.audio_url)
        options["speaker"] = self.subject or [inputs.identity(url) for url in self.mask_urls]
        return options

    def expectation(self) -> MediaExpectation:
        """A video of the asked resolution class that has sound."""
        return MediaExpectation(resolution_class=self.output_resolution, has_audio=True, shows_face=True)

    def shape_source(self) -> str:
        """The video has the portrait's shape."""
        return self.image_url

    def stale_at(self) -> float | None:
        """Masks live for 1 hour, of which a quarter is left for the provider to fetch them.

        A subject that is named, and was not looked for yet, is stale from the beginning: it must never be sent as if
        anybody might speak.
        """
        if self._chosen_at is None:
            return float("-inf") if self.names_subject and not self.mask_urls else None
        return self._chosen_at + 0.75 * catalog.MASK_LIFETIME_SECONDS if self.mask_urls else None

    def duration_source(self) -> DurationSource:
        """The video is as long as the recording, which must be shorter than 60 seconds."""
        return DurationSource("audio_url", self.audio_url, below_seconds=catalog.MAX_AUDIO_SECONDS, needs_sound=True)

    def inputs(self) -> tuple[RequestInput, ...]:
        """Portrait, recording and masks; only URLs are documented for them."""
        is_renewed = bool(self.subject)
        masks = (
            RequestInput(f"mask_urls.{number}", url, media="picture", is_renewed=is_renewed)
            for number, url in enumerate(self.mask_urls)
        )
        portrait = RequestInput("image_url", self.image_url, media="picture")
        return (portrait, RequestInput("audio_url", self.audio_url, media="recording"), *masks)
