"""Nothing is skipped quietly: every run ends with how many tests were skipped and why; STRICT=1 makes that a failure.

Loaded by pyproject.toml. With pytest-xdist the workers send their reports to the controller, which counts.
"""

from __future__ import annotations

import os
import re
from collections import Counter

import pytest

BROWSER = re.compile(r"chrom|browser|playwright|font", re.IGNORECASE)
APT_LINE = "sudo apt install chromium-headless-shell fonts-noto-cjk"


class NothingSkippedQuietly:
    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._count(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        # a whole module or folder that skips itself
        self._count(report)

    def _count(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            longrepr = report.longrepr
            text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
            self.reasons[report.nodeid] = text.removeprefix("Skipped: ").strip() or "no reason given"

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if (
            self.strict
            and self.reasons
            and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.reasons:
            return
        count = f"{len(self.reasons)} {'test' if len(self.reasons) == 1 else 'tests'} skipped"
        terminalreporter.section(f"{count}{', and STRICT=1 forbids that' if self.strict else ''}", red=True, bold=True)
        for reason, times in Counter(self.reasons.values()).most_common():
            terminalreporter.line(f"  {times} × {reason}")
        if any(BROWSER.search(reason) for reason in self.reasons.values()):
            terminalreporter.line(f"  To run the browser tests: {APT_LINE}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        strict = os.environ.get("STRICT", "") not in ("", "0")
        config.pluginmanager.register(NothingSkippedQuietly(strict), "nothing-skipped-quietly")
