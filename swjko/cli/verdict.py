"""Verdicts on what a run found: good, poor or unknown, by rules that the report states."""

from collections.abc import Sequence
from typing import NamedTuple


class Check(NamedTuple):
    """One condition of a verdict.

    Attributes:
      passed: Whether the condition holds; None if it could not be evaluated.
      rule: The condition, as part of a sentence.
      finding: What was found if it does not hold, as a sentence without its full stop.
    """

    passed: bool | None
    rule: str
    finding: str


class Verdict(NamedTuple):
    """Whether the result of a run can be used.

    Attributes:
      fit: "good" if all conditions hold, "poor" if one does not, otherwise "unknown".
      reasons: Findings of the conditions that do not hold or could not be evaluated.
      rule: All conditions.
    """

    fit: str
    reasons: tuple[str, ...]
    rule: str


def judge(checks: Sequence[Check], advice: str = "") -> Verdict:
    """Return the verdict of some conditions.

    Args:
      checks: At least one condition.
      advice: A further reason of a poor fit, such as what may help.
    """
    failed = [check.finding for check in checks if check.passed is False]
    missing = [check.finding for check in checks if check.passed is None]
    fit = "poor" if failed else "unknown" if missing else "good"
    reasons = (*failed, *missing, *([advice] if failed and advice else []))
    return Verdict(fit, reasons, "good if " + ", and ".join(check.rule for check in checks))
