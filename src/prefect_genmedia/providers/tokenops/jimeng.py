"""The Jimeng 3.0 request: a video from text or pictures (TokenOps' page, "支持的参数" and "Content 字段结构")."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from prefect_genmedia._transport import shown_url
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.inputs import AS_GIVEN, InputUrl, RequestInput, Seed, SentInputs, input_url
from prefect_genmedia.providers.protocol import GenerationRequest, MediaExpectation
from prefect_genmedia.providers.tokenops import catalog


class _Url(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(min_length=1)

    def __repr_args__(self) -> Iterator[tuple[str, str]]:
        """Show no signature, and of a `data:` URI no data."""
        yield "url", shown_url(self.url) if self.url.startswith(("http", "data:")) else self.url


class ContentText(BaseModel):
    """A text element of `content`; it wins over `prompt`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["text"] = "text"
    text: str = Field(min_length=1, max_length=catalog.JIMENG_PROMPT_LIMIT)


class ContentImage(BaseModel):
    """A picture element of `content`: a URL or path, or a `data:` URI with `type` image_base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["image_url", "image_base64"]
    image_url: _Url

    @model_validator(mode="after")
    def _matches_type(self) -> Self:
        is_data = self.image_url.url.startswith("data:image/")
        if is_data != (self.type == "image_base64"):
            raise ValueError("image_url takes a URL or path, image_base64 a data:image/…;base64,… URI")
        if not is_data:
            input_url(self.image_url.url)
        return self


ContentElement = Annotated[ContentText | ContentImage, Field(discriminator="type")]

_SIZE_LIMIT = 10_000
_TIMES = re.compile(r"\s*[xX×*]\s*")
"""What people write between width and height."""


class JimengVideo(GenerationRequest):
    """A video of 5 or 10 seconds from text, a first frame, a first and a last frame, or a camera movement."""

    provider: ClassVar[str] = "tokenops"
    kind: ClassVar[str] = "jimeng"
    technical_fields: ClassVar[frozenset[str]] = frozenset({"req_key"})
    decides: ClassVar[Mapping[str, frozenset[str]]] = {
        **dict.fromkeys(("prompt", "seed", "template_id", "camera_strength"), frozenset[str]()),
        **dict.fromkeys(("seconds", "frames"), frozenset({"seconds"})),
        **dict.fromkeys(("image_urls", "content", "aspect_ratio"), frozenset({"aspect_ratio"})),
        "size": frozenset({"aspect_ratio", "resolution_class"}),
    }

    model: catalog.JimengModel = Field(default="jimeng-video-3.0-pro", description="The model's name at TokenOps.")
    prompt: str = Field(
        default="",
        max_length=catalog.JIMENG_PROMPT_LIMIT,
        description="What the video shows; 400 characters or fewer are recommended, 800 are the limit.",
    )
    req_key: str | None = Field(
        default=None, description="The service's name; derived from the model and inputs if not given."
    )
    image_urls: tuple[InputUrl, ...] = Field(
        default=(), max_length=2, description="URL or path of the first frame, or of the first and the last frame."
    )
    content: tuple[ContentElement, ...] = Field(
        default=(), description="Text and pictures in the platform's content form."
    )
    frames: catalog.Frames | None = Field(
        default=None, description="121 frames (5 s) or 241 frames (10 s); wins over 5 seconds."
    )
    seconds: Literal[5, 10] | None = Field(default=None, description="5 or 10 seconds.")
    aspect_ratio: catalog.AspectRatio | None = Field(
        default=None, description="Ratio of a video from text; 16:9 by default."
    )
    size: str | None = Field(default=None, description="Width x height such as 1280x720; stands for its ratio.")
    seed: Seed = Field(default=-1, description="Random seed; -1 lets the provider choose.")
    template_id: catalog.CameraTemplate | None = Field(default=None, description="Camera movement, for recamera only.")
    camera_strength: catalog.CameraStrength | None = Field(default=None, description="Its strength, for recamera only.")

    @field_validator("seconds", mode="before")
    @classmethod
    def _seconds_as_text(cls, value: Any) -> Any:
        # The seed writes "5": the platform takes text, so we take both.
        return int(value) if isinstance(value, str) and value.strip() in ("5", "10") else value

    @field_validator("frames", "aspect_ratio", "template_id", "camera_strength", mode="before")
    @classmethod
    def _word_for_unset(cls, value: Any) -> Any:
        # What the run form offers, so that tables may say it too.
        return None if value in ("auto", "none") else value

    @field_validator("size", mode="before")
    @classmethod
    def _size_with_an_x(cls, value: Any) -> Any:
        return _TIMES.sub("x", value.strip()) if isinstance(value, str) else value

    @field_validator("size")
    @classmethod
    def _size_is_two_numbers(cls, value: str | None) -> str | None:
        if value is not None:
            width, separator, height = value.partition("x")
            if not (separator and value.isascii() and width.isdecimal() and height.isdecimal()):
                raise ValueError("must be width x height in pixels, such as 1280x720")
            if not (0 < int(width) <= _SIZE_LIMIT and 0 < int(height) <= _SIZE_LIMIT):
                raise ValueError(f"each side must be from 1 to {_SIZE_LIMIT} pixels")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [*self._conflicts(), *self._catalog_problems()]
        if problems:
            raise InvalidRequest.of(f"{type(self).__name__} request", [FieldProblem("", text) for text in problems])
        return self

    def _conflicts(self) -> list[str]:
        problems = []
        if self.frames == 121 and self.seconds == 10:
            problems.append("frames 121 are 5 seconds, not 10: give frames or seconds")
        if self.size is not None and self.aspect_ratio not in (None, _nearest_ratio(self.size)):
            problems.append(
                f"size {self.size} is {_nearest_ratio(self.size)}, not {self.aspect_ratio}: give size or aspect_ratio"
            )
        if self.image_urls and self._content_images:
            problems.append("give pictures in image_urls or in content, not in both")
        if sum(isinstance(element, ContentText) for element in self.content) > 1:
            problems.append("give one text in content")
        if not self._text and not self._image_count:
            problems.append("a video from text needs a prompt, or a text in content")
        return problems

    def _catalog_problems(self) -> list[str]:
        keys = [key for key in catalog.REQ_KEYS if key.model == self.model]
        if self.req_key is not None:
            named = [key for key in keys if key.name == self.req_key]
            if not named:
                known = ", ".join(key.name for key in keys)
                return [f"req_key {self.req_key!r} is not one of {self.model}'s: {known}"]
            keys = named
        fitting = [key for key in keys if key.images[0] <= self._image_count <= key.images[1]]
        if not fitting:
            wanted = "; ".join(f"{key.name} ({key.purpose}) takes {_count(key.images)}" for key in keys)
            return [f"{self._image_count} pictures do not fit: {wanted}"]
        if self._wants_camera and not any(key.camera for key in fitting):
            return ["template_id and camera_strength belong to jimeng_i2v_recamera_v30 (720P, one picture)"]
        return self._camera_problems()

    def _camera_problems(self) -> list[str]:
        if not self.service.camera:
            return []
        missing = [
            name
            for name in ("template_id", "camera_strength")
            if getattr(self, name) is None and name not in self.extra_body
        ]
        return [f"{self.model} with {self.service.name} needs {' and '.join(missing)}"] if missing else []

    @property
    def _wants_camera(self) -> bool:
        return self.template_id is not None or self.camera_strength is not None

    @property
    def _content_images(self) -> list[ContentImage]:
        return [element for element in self.content if isinstance(element, ContentImage)]

    @property
    def _image_count(self) -> int:
        return len(self.image_urls) + len(self._content_images)

    @property
    def _text(self) -> str:
        texts = [element.text for element in self.content if isinstance(element, ContentText)]
        return texts[0] if texts else self.prompt

    @property
    def default_model(self) -> str:
        """The model's name at TokenOps."""
        return self.model

    @property
    def service(self) -> catalog.ReqKey:
        """The catalog entry in use: the one given, or the only one that fits the model and the inputs.

        Raises:
            AssertionError: never for a request that was checked when it was made.
        """
        for key in catalog.REQ_KEYS:
            if key.model != self.model or not key.images[0] <= self._image_count <= key.images[1]:
                continue
            if self.req_key == key.name or (self.req_key is None and key.camera == self._wants_camera):
                return key
        raise AssertionError("a checked request always has a service")

    def body(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """The JSON of `POST /videos`; what the user did not set is left to the documented default."""
        inline = any(inputs.base64(each.url) for each in self.inputs())
        body: dict[str, Any] = {"model": self.model}
        if self.prompt and not inline:
            body["prompt"] = self.prompt
        body["req_key"] = self.service.name
        if self.image_urls and not inline:
            body["image_urls"] = [inputs.url(url) for url in self.image_urls]
        body |= self.model_dump(include={"seed"} & self.model_fields_set)
        body |= self.model_dump(
            include={"frames", "aspect_ratio", "size", "template_id", "camera_strength"}, exclude_none=True
        )
        if self.seconds is not None and self.frames is None:
            body["seconds"] = str(self.seconds)
        if inline:
            # As the document's own example does it: text and base64 pictures are elements of one content.
            text = [{"type": "text", "text": self._text}] if self._text else []
            body["content"] = text + [_picture_element(each.url, inputs) for each in self.inputs()]
        elif self.content:
            body["content"] = [
                element.model_dump(mode="json")
                if isinstance(element, ContentText)
                else _picture_element(element.image_url.url, inputs)
                for element in self.content
            ]
        return body

    def inputs(self) -> tuple[RequestInput, ...]:
        """The pictures; in `content` they may travel as base64 (TokenOps' page, "使用 Base64 编码的图片")."""
        places = [(f"image_urls.{number}", url) for number, url in enumerate(self.image_urls)]
        places += [
            (f"content.{number}.image_url", element.image_url.url)
            for number, element in enumerate(self.content)
            if isinstance(element, ContentImage)
        ]
        first = places[0][0] if places else None
        return tuple(
            RequestInput(
                field,
                url,
                inline=True,
                picture=catalog.JIMENG_PICTURES,
                ratio_of=first if number else None,
                media="picture",
            )
            for number, (field, url) in enumerate(places)
        )

    def identity_inputs(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """Everything, with each picture by its unsigned URL or its bytes, and the same length or ratio as one value."""
        options = self.model_dump(
            mode="json",
            exclude={"image_urls", "content", "frames", "seconds", "prompt", "req_key", "size", "aspect_ratio"},
        )
        pictures = [*self.image_urls, *(image.image_url.url for image in self._content_images)]
        return options | {
            "text": self._text,
            "pictures": [inputs.identity(url) for url in pictures],
            "length_seconds": self._length_seconds,
            "ratio": self._ratio,
            "service": self.service.name,
        }

    def expectation(self) -> MediaExpectation:
        """The asked length; the asked ratio where text alone decides it."""
        from_text = self._image_count == 0
        return MediaExpectation(
            seconds=float(self._length_seconds),
            resolution_class=catalog.JIMENG_RESOLUTION[self.model],
            aspect_ratio=self._ratio if from_text else None,
        )

    def shape_source(self) -> str | None:
        """The video has the shape of its first picture, where it has one."""
        return self.image_urls[0] if self.image_urls else None

    @property
    def _length_seconds(self) -> int:
        if self.frames is not None:
            return 10 if self.frames == 241 else 5
        return self.seconds or 5

    @property
    def _ratio(self) -> float:
        """The documented ratio nearest to what was asked."""
        return _ratio_of(self.aspect_ratio or "16:9" if self.size is None else _nearest_ratio(self.size))


def _picture_element(url: str, inputs: SentInputs) -> dict[str, Any]:
    if (sent := inputs.base64(url)) is not None:
        url = f"data:{sent.media_type};base64,{sent.base64}"
    if url.startswith("data:"):
        return {"type": "image_base64", "image_url": {"url": url}}
    return {"type": "image_url", "image_url": {"url": inputs.url(url)}}


def _nearest_ratio(size: str) -> str:
    """The documented ratio that a size such as 1280x720 is nearest to."""
    width, height = (int(side) for side in size.split("x"))
    names: tuple[str, ...] = get_args(catalog.AspectRatio)
    return min(names, key=lambda name: abs(math.log(_ratio_of(name) * height / width)))


def _ratio_of(name: str) -> float:
    width, height = name.split(":")
    return int(width) / int(height)


def _count(images: tuple[int, int]) -> str:
    low, high = images
    number = str(low) if low == high else f"{low} or {high}"
    return f"{number} picture" if high == 1 else f"{number} pictures"
