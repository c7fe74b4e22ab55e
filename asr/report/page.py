"""Writes report.html, .md, .csv and PNG figures from run folders, a study and probes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.document import figures
from asr.document.blocks import Block, Picture, Section, Text, to_markdown
from asr.document.web_page import to_page
from asr.files import new_folder, write_all
from asr.formatting import listed
from asr.report import costs, verdict
from asr.report.arms import curves, group_sections
from asr.report.claim_sections import claim_sections, overview
from asr.report.claims import judge
from asr.report.disturbed import disturbed
from asr.report.evidence import Evidence, compare_arms
from asr.report.groups import place, read_groups
from asr.report.probes import Probes, read_probes
from asr.report.runs_csv import to_csv, verdicts_csv
from asr.report.study import StudyRecord, known_by_study, read_record
from asr.report.study_audit import disagreements
from asr.report.study_section import study_section

SYNTHETIC = (
    "SYNTHETIC SPEECH: a computer generated the utterances. The figures compare encoders on "
    "this task; they do not predict word error rates on human speech."
)

WORDS = (
    "Word error rate (WER): substituted, deleted and inserted words per reference word; can exceed "
    "100 %.",
    "Core-hours: hours from start to end by the clock, times the number of cores; set-up, "
    "validation and checkpoints are included. Hours of other devices are counted in the same way.",
    "CPU time: the time that the cores worked for a run; two busy cores give 2 CPU seconds in a "
    "second.",
    "Disturbed: the processes of a run waited for a core during more than 10 % of the time held, "
    "or the speed of a tenth of the run differed by more than 1.5 times from that of the whole. "
    "The hours of the run then also count other programs; its updates, audio and FLOPs do not, "
    "and its CPU time hardly does: shared caches and hardware threads of a core (SMT) raise it.",
    "Arm: an encoder with its settings. The runs of an arm differ only in their random seed.",
    "Interval: if the study were repeated with other speakers and seeds, 95 of 100 such intervals "
    "would contain the true value (or the share given by the level beside the interval). Intervals "
    "of the cost to a WER contain it less often, as noted there. A difference is significant if "
    "its interval does not contain 0.",
    "Equal cost: the hours of devices in training, without tuning, differ by at most 10 %.",
    "Not enough evidence: the arms may be equal, or differ by an amount that matters.",
    "Description: a comparison that the study did not plan. It decides nothing.",
    "Censored: a run that stopped before it reached the target; it is counted, not dropped.",
    "Real-time factor: seconds of recognition (features, encoder and search with the decoder) per "
    "second of audio.",
    "Pareto front: arms that no other arm beats in both errors and costs.",
)


def compare(
    runs: Sequence[Path],
    output: Path,
    *,
    targets: Sequence[float] | None = None,
    split: str = "test",
    study: Path | None = None,
    claims: Sequence[Path] = (),
) -> dict[str, Any]:
    """Writes the comparison of run folders into ``output``.

    Args:
        runs: folders that ``asr train`` wrote; those that are not comparable form groups. If empty:
            all final runs of the study.
        output: folder for report.html, report.md, report.csv, claims.csv and the PNG figures.
        targets: target WERs on the validation split, as fractions; by default those that the study
            registered, or else 1.5, 1.15 and 1 times the best WER of the weaker arm.
        split: the evaluated split.
        study: folder that ``asr study`` wrote; its trials and failures count as cost, and its
            registered file is checked against the results.
        claims: folders that ``asr claims`` wrote.

    Returns:
        answer: lines of each group; groups: labels of the arms of each group; separation: reasons
        why each group is separate; claims: verdict in words by claim; disagreements: contradictions
        between the study's results and its file; files: written files.

    Raises:
        ValueError: a folder is of the wrong kind or given twice, or a target is not a rate.
        OSError: the output cannot be written.
    """
    for target in targets or ():
        if not 0 < target < 1:
            raise ValueError(
                f"target WER {100 * target:g} % is not between 0 and 100 %; give another"
            )
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; give a folder for the report")
    record = None if study is None else read_record(Path(study))
    probes = read_probes([Path(folder) for folder in claims])
    folders = [Path(run) for run in runs] or ([] if record is None else record.final_runs)
    groups = read_groups(folders, split, by_budget=record is not None and record.by_budget)
    groups = groups if record is None else known_by_study(groups, record)
    caveat = "" if record is None else record.late_plan()
    wanted = sorted(targets or (record.targets if record else ()), reverse=True)
    registered = record is not None and record.registered_targets(wanted)
    found = [
        compare_arms(
            group,
            wanted or costs.default_targets(group),
            caveat,
            contrasts=None if record is None else record.planned_for(group),
            registered=registered,
            planned=None if record is None else record.contrasts,
            seeds=() if record is None else record.plan["seeds"],
        )
        for group in groups
    ]
    broken = (
        []
        if record is None
        else disagreements(record, [r for g in groups for r in g.runs], split, wanted)
    )
    page = Page(found, probes, record, broken)
    sections = page.sections()
    contents: dict[Path, bytes] = {
        output / f"{block.name}.png": png
        for _, blocks in sections
        for block in blocks
        if isinstance(block, Picture) and (png := figures.to_png(block.draw)) is not None
    }
    title = page.title()
    contents[output / "claims.csv"] = verdicts_csv(page.verdicts).encode()
    contents[output / "report.csv"] = to_csv(groups, [e.targets for e in found], record).encode()
    contents[output / "report.md"] = to_markdown(title, sections).encode()
    contents[output / "report.html"] = to_page(title, sections).encode()
    with new_folder(output):
        write_all(contents)
    return {
        "answer": page.answers,
        "groups": [[arm.label for arm in group.arms] for group in groups],
        "separation": [group.separation for group in groups],
        "claims": {v.claim: v.words for v in page.verdicts},
        "disagreements": broken,
        "files": list(contents),
    }


class Page:
    """The sections of the report in reading order: answer, claims, study, arms."""

    def __init__(
        self, found: list[Evidence], probes: Probes, study: StudyRecord | None, broken: list[str]
    ):
        self.found, self.probes, self.study, self.broken = found, probes, study, broken
        self.answers = [verdict.answer(evidence) for evidence in found]
        self.verdicts = judge(found, probes)

    def title(self) -> str:
        """The title of the page."""
        labels = [arm.label for evidence in self.found for arm in evidence.group.arms]
        name = f" (study {self.study.registered['name']})" if self.study else ""
        return f"Word error rate against cost: {listed(list(dict.fromkeys(labels)))}{name}"

    def sections(self) -> list[Section]:
        """All sections of the page."""
        several = len(self.found) > 1
        top: list[Block] = [Text([line], "warning") for line in self._alarms()]
        top += [Text(self._answer(), "answer"), *overview(self.verdicts)]
        sections: list[Section] = [("The answer", top)]
        sections += claim_sections(self.verdicts, self.found, self.probes)
        if self.study is not None:
            sections.append(study_section(self.study, self.broken))
        if several:
            title = "Only runs of the same group can be compared"
            sections.append((title, self._separations()))
        for number, (evidence, lines) in enumerate(zip(self.found, self.answers, strict=True), 1):
            name = verdict.group_name(evidence.group, number)
            head, suffix = (f"{name}: ", f"-group{number}") if several else ("", "")
            if several:
                sections.append((f"{head}The answer", [Text(lines, "answer")]))
                title = f"{head}Errors against training cost"
                sections.append((title, curves(evidence, suffix)))
            sections += [
                (head + title, blocks) for title, blocks in group_sections(evidence, suffix)
            ]
        return [*sections, ("Words used here", [Text(WORDS, "list")])]

    def _answer(self) -> list[str]:
        """The lines of a single group, or the first line of each of the five largest groups."""
        if len(self.answers) == 1:
            return self.answers[0]
        shown = zip(self.found[:5], self.answers, strict=False)
        return [
            f"{verdict.group_name(evidence.group, number)}: {lines[0]}"
            for number, (evidence, lines) in enumerate(shown, 1)
        ]

    def _alarms(self) -> list[str]:
        runs = [run for evidence in self.found for run in evidence.group.runs]
        alarms = [f"RESULTS AND REGISTERED FILE DISAGREE: {line}" for line in self.broken]
        alarms += [f"{run.path}: {run.stale}." for run in runs if run.stale]
        alarms += [
            f"DISTURBED RUN: {place(run, runs)}: {'; '.join(run.disturbances or ())}."
            for evidence in self.found
            for run in disturbed(evidence.group.arms)
        ]
        if self.study is not None and (lost := self.study.lost):
            alarms.append(
                "FINAL RUNS FAILED: they have no error rate, so their arms look better than they "
                "are. In the cost to a WER, each counts as a run that never reached it (an arm "
                f"without a finished run has no figures): {listed(lost)}."
            )
        return alarms + ([SYNTHETIC] if any(run.synthetic for run in runs) else [])

    def _separations(self) -> list[Block]:
        lines = []
        for number, evidence in enumerate(self.found, 1):
            group = evidence.group
            names = listed([arm.label for arm in group.arms])
            differs = "; ".join(group.separation)
            why = f" Differs from group 1 in {differs}." if differs else ""
            title = verdict.group_name(group, number)
            lines.append(f"{title}: {names} (runs: {len(group.runs)}).{why}")
        units = sorted({costs.hours_unit(evidence.group) for evidence in self.found})
        if len(units) > 1:
            lines.append(f"{listed(units)} count different devices, so they are never compared.")
        return [Text(lines, "list")]
