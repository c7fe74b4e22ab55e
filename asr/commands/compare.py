"""``asr compare`` and ``asr study``."""

from pathlib import Path
from typing import Any

from asr.commands.options import hyphens, parser
from asr.formatting import listed

LEFT = 3  # exit status of a study that stopped at its time limit with runs left


def compare(arguments: list[str]) -> int:
    """``asr compare RUN ...``."""
    options = parser("compare")
    options.usage = "asr compare RUN RUN ... [--output FOLDER] [--option value ...]"
    folder: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}
    add = options.add_argument
    add("runs", nargs="*", type=Path, metavar="RUN", help="run folders to compare")
    add("--output", default=Path("report"), help="folder to write (default: report)", **folder)
    add(
        "--targets", nargs="+", type=float, metavar="WER",
        help="target WERs in percent, for instance 10 5; the page gives the cost to reach each "
        "(default: the targets of the study; without a study, 1.5, 1.15 and 1 times the best "
        "validation WER of the weakest arm)",
    )  # fmt: skip
    add("--split", default="test", help="split whose evaluations are compared (default: test)")
    add("--study", help="study folder; the page includes its runs, trials and failures", **folder)
    claims = "folders that asr claims wrote; the page includes them"
    add("--claims", nargs="+", default=[], help=claims, **folder)
    known = options.parse_intermixed_args(hyphens(arguments))
    for run in known.runs:
        if not run.is_dir():
            raise ValueError(f"{run}: no such run folder; check the path")

    from asr.report import compare as report

    targets = None if known.targets is None else [t / 100 for t in known.targets]
    result = report(
        known.runs,
        known.output,
        targets=targets,
        split=known.split,
        study=known.study,
        claims=known.claims,
    )
    print(compared(result))
    return 0


def compared(result: dict[str, Any]) -> str:
    """Formats the answer of each group of comparable runs, and the path of the page."""
    lines = []
    for number, (answer, arms, why) in enumerate(
        zip(result["answer"], result["groups"], result["separation"], strict=True), start=1
    ):
        if len(result["groups"]) > 1:
            lines.append(f"Group {number}: {', '.join(arms)}")
        lines += [f"  not compared with group 1: {reason}" for reason in why]
        lines += answer
    lines += [f"{claim}: {words}" for claim, words in result["claims"].items()]
    lines += [f"results and registered file disagree: {line}" for line in result["disagreements"]]
    page = next(path for path in result["files"] if path.suffix == ".html")
    others = [path.name for path in result["files"] if path != page]
    return "\n".join([*lines, f"written: {page} (beside it {', '.join(others)})"])


def study(arguments: list[str]) -> int:
    """``asr study STUDY``."""
    options = parser("study")
    add = options.add_argument
    add("file", metavar="STUDY", help="name of a shipped study, or a YAML file")
    add("--folder", type=Path, metavar="FOLDER", help="study's folder (default: runs/studies/NAME)")
    add(
        "--workers", type=int, metavar="N",
        help="number of runs at a time (default: one per GPU, or as many as fit on the CPU cores)",
    )  # fmt: skip
    add(
        "--minutes", type=float, metavar="N",
        help="stop after at most N minutes; the runs are saved, and the same command continues "
        "them. The exit status is 3 while work is left",
    )  # fmt: skip
    for name, kind in (("arms", str), ("budgets", str), ("seeds", int)):
        add(f"--{name}", nargs="+", type=kind, default=[], help=f"run only these {name}")
    add(
        "--plan", action="store_true",
        help="print what each contrast can detect before anything runs, and exit; the exit status "
        "is 1 if one can decide nothing, unless the study is descriptive",
    )  # fmt: skip
    add("--status", action="store_true", help="print the state of the study, and exit")
    add("--retry", action="store_true", help="repeat failed runs; their cost still counts")
    add(
        "--amend", action="store_true",
        help="continue although the study file has changed, and record the change",
    )  # fmt: skip
    known = options.parse_args(hyphens(arguments))
    for alone, reads in (("plan", ()), ("status", ("folder",))):
        given = [n for n, v in vars(known).items() if v != options.get_default(n)]
        idle = [f"--{name}" for name in given if name not in ("file", alone, *reads)]
        if getattr(known, alone) and idle:
            raise ValueError(f"--{alone} describes the whole study; leave {listed(idle)} out")

    from asr.config import shipped
    from asr.study import Plan, Selection, outlook, read_study, run_study, status, task

    described = read_study(shipped.find(known.file, "studies"))
    folder = known.folder or Path("runs") / "studies" / described.name
    if known.plan:
        lines, refused = outlook(Plan(described))
        print("\n".join(lines))
        return int(bool(refused))
    if known.status:
        print("\n".join(status(described, folder)))
        return 0
    result = run_study(
        described,
        folder,
        workers=known.workers,
        selection=Selection(known.arms, known.budgets, known.seeds),
        amend=known.amend,
        retry=known.retry,
        minutes=known.minutes,
    )
    code = LEFT if known.minutes and result["left"] else int(result["failed"])
    if (launched := task()) and launched[0]:
        return code  # only the first process of srun or torchrun prints
    print("\n".join([result["table"], *result["remarks"]]))
    if code == LEFT:
        print(f"time is up, runs left: {result['left']}; the same command continues")
    print(f"written: {folder / 'results.jsonl'}" + f", {result['report']}" * bool(result["report"]))
    return code
