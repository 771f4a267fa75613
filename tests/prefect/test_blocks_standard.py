"""Prefect's own standard for Blocks, for each of ours."""

from __future__ import annotations

from importlib import resources

import pytest
from PIL import Image
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, MediaJob, TokenOpsCredentials


@pytest.mark.parametrize("block", [TokenOpsCredentials, JeniusCredentials, HiDreamCredentials, MediaJob])
class TestBlocksMeetPrefectsStandard(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        return request.param

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """In place of Prefect's test, which fetches the URL: that needs the network, and the file to be published.

        Here the shipped file that the URL names is checked in the same way. Nothing here shows that the URL answers.
        """
        url = str(block._logo_url)
        assert url.startswith("https://raw.githubusercontent.com/prefect-genmedia/prefect-genmedia/main/src/")
        package, _, name = url.partition("/main/src/")[2].rpartition("/")
        shipped = resources.files(package.replace("/", ".")).joinpath(name)
        with shipped.open("rb") as file, Image.open(file) as logo:
            logo.load()
            assert logo.format == "PNG"
            assert logo.width == logo.height
            assert 200 <= logo.width < 1000
