"""The probes of ``asr claims``, which measure what word error rates alone cannot show."""

from asr.probes import (
    context,
    horizon,
    length,
    lookahead,
    memory,
    roofline,
    scaling,
    streaming,
    threads,
)
from asr.probes.probe import Probe

PROBES: dict[str, Probe] = {
    module.PROBE.name: module.PROBE
    for module in (
        scaling,
        threads,
        horizon,
        length,
        streaming,
        lookahead,
        memory,
        roofline,
        context,
    )
}
