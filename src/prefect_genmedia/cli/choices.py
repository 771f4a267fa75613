"""Parameters that several commands have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from prefect_genmedia.providers.plugin import plugins

if TYPE_CHECKING:
    ProviderName = str
else:  # what is offered and accepted are the providers that there are
    ProviderName = Literal[tuple(plugin.name for plugin in plugins())]

Switch = Annotated[bool, Parameter(negative="", show_default=False)]
"""Off unless given: there is no `--no-…`."""
