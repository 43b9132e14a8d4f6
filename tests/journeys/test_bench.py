"""The benchmark runs, and would say so if the portal lost count. Its figures are for quieter moments."""

import subprocess
import sys

from tests.journeys.portal_process import ROOT


def test_the_benchmark_runs_and_its_counts_agree():
    command = [sys.executable, "-m", "bench", "--quick", "--seconds", "0.05"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid: no error, and client, ledger and upstream counted the same" in done.stdout
    assert "identical: True" in done.stdout
    assert "pages beside 64 streams" in done.stdout
