import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORDER = """
files locks items folders formatting batch loss config model_folder kernels layers audio text
metering data corpora encoders decoders language_models search model recipe statistics recognition
training document probes report study doctor commands cli
""".split()  # noqa: SIM905


def imported(path: Path) -> set[str]:
    """Dotted names inside asr/ that a file imports; a relative import is never allowed."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.add("a relative import")
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "asr":
            rest = ".".join(node.module.split(".")[1:])
            found |= {rest} if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("asr.") for a in node.names if a.name.startswith("asr.")}
    return found


def test_imports_follow_the_order_of_folders():
    wrong = []
    for path in sorted((ROOT / "asr").rglob("*.py")):
        here = path.relative_to(ROOT / "asr").parts[0].removesuffix(".py")
        if here in ("__init__", "__main__"):
            continue
        if here not in ORDER:
            wrong.append(f"{path.name} has no place in the order")
            continue
        for name in imported(path):
            there = name.split(".")[0]
            if there == "__version__":
                continue
            if there not in ORDER or ORDER.index(there) > ORDER.index(here):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_help_and_report_do_not_load_torch():
    code = (
        "import sys, asr.cli, asr.report; asr.cli.main(['--help']);"
        "sys.exit(bool({'torch', 'lightning', 'datasets'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_transcription_does_not_load_lightning():
    code = (
        "import sys, asr.recognition.transcribe, asr.model;"
        "sys.exit(any(name.startswith('lightning') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
