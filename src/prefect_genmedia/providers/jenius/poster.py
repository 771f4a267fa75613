"""The Jenius request: a live poster of one picture in a predefined scene (seed 000, "使用流程")."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from prefect_genmedia.providers.inputs import PublicUrl
from prefect_genmedia.providers.jenius import catalog
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.transport import unsigned_url


class LivePoster(GenerationRequest):
    """A short video of a person in one of the predefined scenes, made from one picture."""

    provider: ClassVar[str] = "jenius"
    kind: ClassVar[str] = "poster"

    image_url: PublicUrl = Field(description="URL of a picture of a person, which Jenius can fetch.")
    scene: catalog.SceneName = Field(description=f"The scene. {catalog.SCENE_CHOICES}.")

    @property
    def model_name(self) -> str:
        """The plugin's name: Jenius names no model."""
        return catalog.MODEL

    def body(self) -> dict[str, Any]:
        """The JSON of `POST /tasks`: the scene travels as `prompt`."""
        return {"prompt": self.scene, "image_url": self.image_url}

    def identity_inputs(self) -> dict[str, Any]:
        """The scene, and the picture by its unsigned URL."""
        return {"image_url": unsigned_url(self.image_url), "scene": self.scene}
