"""The probes: what ``asr claims`` measures, which word error rates alone cannot answer."""

from asr.probes import (
    context,
    horizon,
    length,
    lookahead,
    memory,
    roofline,
    scaling,
    streaming,
)
from asr.probes.probe import Probe

PROBES: dict[str, Probe] = {
    module.PROBE.name: module.PROBE
    for module in (scaling, horizon, length, streaming, lookahead, memory, roofline, context)
}
