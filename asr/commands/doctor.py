"""``asr doctor``."""

import json
from dataclasses import asdict

from asr import __version__
from asr.commands.options import hyphens, parser


def doctor(arguments: list[str]) -> int:
    """``asr doctor [--quick] [--json]``: exit status 1 if something is broken, otherwise 0."""
    options = parser("doctor")
    options.add_argument(
        "--quick", action="store_true", help="skip the test that trains and transcribes"
    )
    options.add_argument(
        "--json", action="store_true", help="print one JSON object with the keys asr (its "
        "version), state and checks; each check has the keys check, state (ok, warning or broken), "
        "detail and remedy",
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
