"""The Jenius request: a live poster of one picture in a predefined scene (Jenius' page, "使用流程")."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from prefect_genmedia.providers.inputs import AS_GIVEN, InputUrl, RequestInput, SentInputs
from prefect_genmedia.providers.jenius import catalog
from prefect_genmedia.providers.protocol import GenerationRequest


class LivePoster(GenerationRequest):
    """A short video of a person in one of the predefined scenes, made from one picture."""

    provider: ClassVar[str] = "jenius"
    kind: ClassVar[str] = "poster"

    image_url: InputUrl = Field(description="URL or path of a picture of a person.")
    scene: catalog.SceneName = Field(description=f"The scene. {catalog.SCENE_CHOICES}.")

    @property
    def default_model(self) -> str:
        """The plugin's name: Jenius names no model."""
        return catalog.MODEL

    def body(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """The JSON of `POST /tasks`: the scene travels as `prompt`."""
        return {"prompt": self.scene, "image_url": inputs.url(self.image_url)}

    def identity_inputs(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """The scene, and the picture by its unsigned URL, or a user's own by its bytes."""
        return {"image_url": inputs.identity(self.image_url), "scene": self.scene}

    def inputs(self) -> tuple[RequestInput, ...]:
        """The picture; only a URL is documented for it."""
        return (RequestInput("image_url", self.image_url, media="picture"),)
