"""Inputs: inspected before anything is paid, and published where a provider can fetch them.

Knows requests only by what they say of their inputs, and nothing of Prefect.
"""

from prefect_genmedia._inputs.inspect import Inspection, InspectionResult, inspect_url, inspections_wanted
from prefect_genmedia._inputs.prepare import (
    Submission,
    identified,
    is_fresh,
    measured,
    prepare_inputs,
    prepared_url,
    without_inputs,
)
from prefect_genmedia._inputs.publish import Publication
from prefect_genmedia._inputs.validate import validate_inputs

__all__ = [
    "Inspection",
    "InspectionResult",
    "Publication",
    "Submission",
    "identified",
    "inspect_url",
    "inspections_wanted",
    "is_fresh",
    "measured",
    "prepare_inputs",
    "prepared_url",
    "validate_inputs",
    "without_inputs",
]
