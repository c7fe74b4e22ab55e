"""``asr doctor``."""

import json
from dataclasses import asdict

from asr import __version__
from asr.commands.options import hyphens, parser


def doctor(arguments: list[str]) -> int:
    """``asr doctor [--quick] [--json]``: 1 if something is broken, 0 with warnings alone."""
    options = parser("doctor")
    options.add_argument(
        "--quick", action="store_true", help="leave out the trial of training and transcription"
    )
    options.add_argument(
        "--json", action="store_true", help="print one JSON object: asr, state and checks, each "
        "with check, state (ok, warning, broken), detail and remedy",
    )  # fmt: skip
    known = options.parse_args(hyphens(arguments))

    from asr.doctor.checks import examine

    findings = []
    for finding in examine(known.quick):
        findings.append(finding)
        if not known.json:
            print(f"{finding.check:20} {finding.state:8} {finding.detail}", flush=True)
            if finding.remedy:
                print(f"{'':29} remedy: {finding.remedy}", flush=True)
    states = [finding.state for finding in findings]
    broken, warnings = states.count("broken"), states.count("warning")
    if known.json:
        state = "broken" if broken else "warning" if warnings else "ok"
        checks = [asdict(finding) for finding in findings]
        print(json.dumps({"asr": __version__, "state": state, "checks": checks}, indent=1))
    else:
        print(f"{states.count('ok')} ok, {warnings} warnings, {broken} broken")
    return int(broken > 0)
