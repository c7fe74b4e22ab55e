import importlib.metadata
import io
import json
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from asr.audio.audio_file import AudioError
from asr.cli import main
from asr.doctor import checks, formats, machine, packages, trial
from asr.doctor.checks import Check, examine
from asr.doctor.finding import Finding
from asr.doctor.threads import busy_seconds, judge
from asr.metering import control_groups


@pytest.mark.parametrize(
    ("states", "status"),
    [(["ok", "ok"], 0), (["ok", "warning"], 0), (["warning", "broken", "ok"], 1)],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_status_is_1_when_something_is_broken(states, status, options, monkeypatch, capsys):
    found = [
        Finding(f"check {n}", state, f"detail {n}", "" if state == "ok" else f"remedy {n}")
        for n, state in enumerate(states)
    ]
    monkeypatch.setattr("asr.doctor.checks.examine", lambda quick: iter(found))
    assert main(["doctor", *options]) == status
    out = capsys.readouterr().out
    for finding in found:
        for text in (finding.check, finding.state, finding.detail, finding.remedy):
            assert text in out
    if options:
        told = json.loads(out)
        assert [check["state"] for check in told["checks"]] == states
        worst = max(states, key=["ok", "warning", "broken"].index)
        assert told["state"] == worst


def test_the_option_quick_leaves_out_training(monkeypatch):
    tried = []
    monkeypatch.setattr(checks, "_here", lambda check: tried.append(check.name) or [])
    monkeypatch.setattr(checks, "_apart", lambda check, seconds: checks._here(check))
    list(examine(quick=True))
    assert "training" not in tried
    quick = tried.copy()
    tried.clear()
    list(examine())
    assert tried == [*quick, "training"]


@pytest.mark.parametrize(
    ("function", "seconds", "detail"),
    [
        ("math:sqrt", None, "TypeError: "),
        ("math:sqrt", 20, "TypeError: "),
        ("no_such_module:check", 20, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("os:abort", 20, "the process was ended by SIGABRT"),
        ("sys:exit", 20, "the process ended without findings"),
        ("signal:pause", 0.5, "no answer in 0.5 s"),
    ],
)
def test_a_check_that_fails_is_a_broken_line(function, seconds, detail, monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", (Check("this", function, "do that", seconds),))
    [finding] = examine()
    assert (finding.check, finding.state, finding.remedy) == ("this", "broken", "do that")
    assert finding.detail.startswith(detail)


def test_output_that_a_check_prints_does_not_disturb_its_findings(tmp_path, monkeypatch):
    (tmp_path / "chatty.py").write_text(
        "import os\nfrom asr.doctor.finding import Finding\n"
        "def check():\n"
        "    print('a line'); os.system('echo another')\n"
        "    return [Finding('this', 'ok', 'done')]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(checks, "CHECKS", (Check("this", "chatty:check", "", 20),))
    assert list(examine()) == [Finding("this", "ok", "done")]


def test_without_torch_all_other_checks_are_reported(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    found = {finding.check: finding for finding in examine()}
    broken = [name for name, finding in found.items() if finding.state == "broken"]
    assert broken == ["torch, torchaudio", "GPU", "threads", "training"]
    assert all("libcudart.so.13" in found[name].detail for name in broken)
    assert found["audio formats"].state == "ok"


def test_folders_on_a_full_disk_are_broken_and_the_rest_is_reported(quota, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is looked for again
    with quota(0):
        found = {finding.check: finding for finding in examine(quick=True)}
    broken = [name for name, finding in found.items() if finding.state == "broken"]
    assert broken[:2] == ["working folder", "temporary folder"]
    for name in broken[2:]:  # torch needs such a folder where the package dill is installed
        assert "No usable temporary directory" in found[name].detail
    assert str(Path.cwd()) in found["working folder"].detail
    assert "go to a folder" in found["working folder"].remedy
    assert "TMPDIR" in found["temporary folder"].remedy


def test_a_folder_in_which_nobody_may_write_is_broken():
    found = machine.folder("this", lambda: Path("/proc"), "go away")
    assert (found.state, found.remedy) == ("broken", "go away")
    assert found.detail.startswith("/proc cannot be written: ")


def test_a_folder_with_little_room_is_a_warning(tmp_path, monkeypatch):
    assert machine.folder("this", lambda: tmp_path, "go away").detail.startswith(str(tmp_path))
    monkeypatch.setattr(machine, "LITTLE_DISK", float("inf"))
    found = machine.folder("this", lambda: tmp_path, "go away")
    assert (found.state, found.remedy) == ("warning", "make room there, or go away")


def test_a_tmpdir_that_python_ignores_is_a_warning(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/proc")
    monkeypatch.setattr(tempfile, "tempdir", None)
    [found] = machine.temporary_folder()
    assert found.state == "warning"
    assert found.detail.startswith("TMPDIR=/proc is not usable; ")


@pytest.mark.parametrize(
    ("number", "ratio", "others", "state", "said"),
    [
        (1, 1.0, 1.9, "ok", "1 thread"),
        (2, 0.55, 0.0, "ok", "0.55 times as long"),
        (2, 0.7, 1.0, "ok", "0.70 times as long"),
        (2, 1.3, 0.1, "warning", "1.30 times as long as on 1"),
        (2, 30.0, 1.0, "warning", "other programs use 1.0 cores"),
        (64, 5.0, 0.0, "warning", "64 threads"),
    ],
)
def test_threads_slower_than_one_are_a_warning(number, ratio, others, state, said):
    found = judge(number, ratio, others)
    assert found.state == state
    assert said in found.detail
    assert ("OMP_NUM_THREADS=1" in found.remedy) == (state == "warning")
    assert ("other programs" in found.detail) == (state == "warning" and others >= 0.5)


def test_busy_seconds_of_the_machine_never_fall():
    before = busy_seconds()
    np.linalg.svd(np.random.default_rng(1).standard_normal((400, 400)))
    assert busy_seconds() >= before > 0


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({}, None, None),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ({"cpu.max": "150000 100000", "memory.max": "1048576"}, 1.5, 2**20),
        (
            {
                "cpu/cpu.cfs_quota_us": "50000",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": str(2**30),
            },
            0.5,
            2**30,
        ),
        (
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            None,
            None,
        ),
    ],
)
def test_limits_of_a_container_are_read(files, cores, memory, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(control_groups, "CGROUPS", tmp_path)
    assert machine.cpu_quota() == cores
    assert machine.memory_limit() == memory


def test_more_threads_than_a_quota_gives_are_a_warning(monkeypatch):
    monkeypatch.setattr("asr.metering.environment.cores", lambda: 8)
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    [found] = machine.processor()
    assert found.state == "warning"
    assert "set OMP_NUM_THREADS=2" in found.remedy
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert next(machine.processor()).state == "ok"


def test_a_memory_limit_of_a_container_is_a_warning(monkeypatch):
    monkeypatch.setattr(machine, "memory_limit", lambda: 2**30)
    [found] = machine.memory()
    assert found.state == "warning"
    assert "limited to 1.0 GiB" in found.detail


def test_a_gpu_driver_without_a_gpu_visible_to_torch_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "version")
    assert [found.state for found in machine.gpus()] == ["ok", "ok"]
    machine.DRIVER.write_text("NVRM version: 580")
    [found] = machine.gpus()
    assert (found.check, found.state) == ("GPU", "warning")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_computes_and_its_energy_is_reported():
    gpu, energy = list(machine.gpus())[:2]
    assert gpu.state == "ok"
    assert "capability" in gpu.detail
    assert energy.check == "energy of GPU 0"


def test_packages_are_compared_with_the_declared_versions(monkeypatch):
    declared = ["numpy>=2", "torch>=99", "no-such-package>=1,<2", "x>1; extra == 'spoken'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    found = {finding.check: finding for finding in packages.versions()}
    assert set(found) == {"python", "asr", "numpy", "torch", "no-such-package"}
    assert found["numpy"] == Finding("numpy", "ok", np.__version__)
    assert found["torch"].state == found["no-such-package"].state == "broken"
    assert found["torch"].detail == f"{importlib.metadata.version('torch')}, but asr needs >=99"
    assert found["torch"].remedy == "pip install 'torch>=99'"
    assert found["no-such-package"].remedy == "pip install 'no-such-package<2,>=1'"


def test_every_package_shown_is_declared():
    found = {finding.check for finding in packages.versions()}
    assert set(packages.SHOWN) <= found


def test_where_asr_is_not_installed_versions_are_listed(monkeypatch):
    monkeypatch.setattr(packages, "DISTRIBUTION", "no-such-package")
    found = {finding.check: finding for finding in packages.versions()}
    assert set(found) == {"python", "asr", *packages.SHOWN}
    assert found["asr"].state == "warning"
    assert found["numpy"].detail == np.__version__


def test_without_espeak_there_is_a_warning(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    [found] = packages.espeak()
    assert (found.state, found.remedy) == ("warning", "pip install espeakng-loader")


def test_formats_that_ffmpeg_writes_are_read():
    read = formats.formats()[0]
    assert (read.check, read.state) == ("audio formats", "ok")
    assert all(name in read.detail for name in formats.SAMPLES)


@pytest.mark.parametrize("name", formats.SAMPLES)
def test_samples_hold_the_tone(name):
    """Judged by FFmpeg's own decoder, whatever the project reads."""
    if (data := formats.encoded(*formats.SAMPLES[name])) is None:
        pytest.skip("this FFmpeg has no such encoder")
    with av.open(io.BytesIO(data)) as file:
        [stream] = file.streams.audio
        wave = np.concatenate([frame.to_ndarray().reshape(-1) for frame in file.decode(stream)])
        assert formats.is_tone(wave.astype(np.float64), stream.rate)


def test_another_sound_is_not_recognised_as_the_tone():
    wave = formats.tone(8000)
    assert formats.is_tone(wave, 8000)
    assert not formats.is_tone(wave[::2], 8000)
    assert not formats.is_tone(np.roll(wave[::2].repeat(2), 1) * np.tile([1, -1], 2000), 8000)


def test_a_format_that_is_not_read_is_broken_where_corpora_need_it(monkeypatch):
    def decode(data, rate):
        raise AudioError("no; convert it")

    monkeypatch.setattr(formats, "decode", decode)
    found = {finding.check: finding for finding in formats.formats()[1:]}
    assert found["audio flac"] == Finding("audio flac", "broken", "no", "convert it")
    assert found["audio mp3"] == Finding("audio mp3", "warning", "no", "convert it")


def test_recordings_of_the_trial_last_two_seconds(tmp_path):
    trial.write_recordings(tmp_path)
    for split in ("train", "validation", "test"):
        for number, text in enumerate(trial.TEXTS):
            wave, rate = soundfile.read(tmp_path / split / f"{number}.wav")
            assert (len(wave), rate) == (32000, 16000)
            assert np.abs(wave).max() > 0.05
            assert (tmp_path / split / f"{number}.txt").read_text() == text
