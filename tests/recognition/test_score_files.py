"""Files of other recognisers are scored as jiwer and NIST's sclite score them."""

import json
import random
import re
import shutil
import subprocess

import jiwer
import pytest

from asr.recognition.score_files import score_files, scores_summary
from asr.recognition.transcript_files import read_pairs

SCLITE = shutil.which("sclite") or shutil.which("sclite", path="/usr/lib/sctk/bin")
needs_sclite = pytest.mark.skipif(not SCLITE, reason="NIST's sclite (Debian: sctk) is missing")
VOCABULARY = [f"w{i}" for i in range(40)]
KINDS = ("substitutions", "deletions", "insertions")


def counts(metrics):
    return [metrics["wer"][kind] for kind in (*KINDS, "words")]


def sclite(folder, reference, kind, hypothesis, other, *options):
    """Substitutions, deletions, insertions and reference words; by speaker, and of all."""
    command = [SCLITE, "-r", reference, kind, "-h", hypothesis, other, *options]
    run = subprocess.run(
        [*command, "-s", "-o", "rsum", "stdout"], cwd=folder, check=True, capture_output=True
    )
    rows = re.findall(r"^ *\| *(\S+) *\|([ \d]+)\|([ \d]+)\|", run.stdout.decode(), re.M)
    table = {}
    for name, sizes, errors in rows:
        _, words = map(int, sizes.split())
        _, s, d, i, _, _ = map(int, errors.split())
        table[name] = [s, d, i, words]
    return table


def spoilt(words, draw):
    """Words with one error in ten or so, at most one in four neighbours: one best alignment."""
    left, found = 0, []
    for word in words:
        left -= 1
        kind = draw.choice(("delete", "insert", "substitute")) if left < 0 else ""
        if not kind or draw.random() > 0.4:
            found.append(word)
            continue
        left = 4
        if kind != "delete":
            found.append("other")
        if kind == "insert":
            found.append(word)
    return found


def dialogue(number, seed=0):
    draw = random.Random(seed)
    references = [draw.sample(VOCABULARY, draw.randint(1, 20)) for _ in range(number)]
    return references, [spoilt(words, draw) for words in references]


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def trn(path, texts):
    return write(path, [f"{' '.join(t)} (s{i % 7}-{i:03})" for i, t in enumerate(texts)])


def test_trn_files_have_the_counts_of_jiwer(tmp_path):
    references, hypotheses = dialogue(150)
    metrics = score_files(trn(tmp_path / "h.trn", hypotheses), trn(tmp_path / "r.trn", references))
    joined = [[" ".join(words) for words in own] for own in (references, hypotheses)]
    expected = jiwer.process_words(*joined)
    assert counts(metrics)[:3] == [getattr(expected, kind) for kind in KINDS]
    assert metrics["cer"]["rate"] == pytest.approx(jiwer.cer(*joined))
    assert [row["speaker"] for row in metrics["by_speaker"]] == [f"s{i}" for i in range(7)]
    assert sum(row["words"] for row in metrics["by_speaker"]) == metrics["wer"]["words"]
    assert "7 speakers" in metrics["wer"]["interval_method"]


@needs_sclite
def test_trn_files_have_the_counts_of_sclite_for_each_speaker(tmp_path):
    references, hypotheses = dialogue(150)
    trn(tmp_path / "r.trn", references)
    trn(tmp_path / "h.trn", hypotheses)
    metrics = score_files(tmp_path / "h.trn", tmp_path / "r.trn")
    expected = sclite(tmp_path, "r.trn", "trn", "h.trn", "trn", "-i", "spu_id")
    assert counts(metrics) == expected.pop("Sum")
    rows = {row["speaker"]: [row[k] for k in (*KINDS, "words")] for row in metrics["by_speaker"]}
    assert rows == {name: row for name, row in expected.items() if name in rows}


def timed(folder, seed=0):
    """An STM with gaps, an excluded segment and two channels; a CTM with words everywhere."""
    draw = random.Random(seed)
    segments, words = [";; comment"], []
    for channel in "AB":
        now = 1.0
        for number in range(30):
            spoken = draw.sample(VOCABULARY, draw.randint(3, 12))
            end = now + 0.5 * len(spoken)
            excluded = number % 10 == 4
            text = "IGNORE_TIME_SEGMENT_IN_SCORING" if excluded else " ".join(spoken)
            label = "<o,f0,male> " if number % 3 else ""
            name = f"{channel}{number % 4}"
            segments.append(f"talk {channel} {name} {now:.2f} {end:.2f} {label}{text}")
            step = (end - now) / len(heard := spoilt(spoken, draw) or ["x"])
            times = [(now + i * step, w) for i, w in enumerate(heard)]
            if number % 9 == 8:
                times.append((end + 0.05, "between"))
            words += [f"talk {channel} {t:.3f} {0.8 * step:.3f} {w} 0.9" for t, w in times]
            now = end + draw.choice((0.0, 1.0))
        words.append(f"talk {channel} {now + 9:.3f} 0.2 after")
    write(folder / "r.stm", segments)
    return write(folder / "h.ctm", words)


@needs_sclite
@pytest.mark.parametrize("seed", range(3))
def test_words_with_times_have_the_counts_of_sclite(tmp_path, seed):
    metrics = score_files(timed(tmp_path, seed), tmp_path / "r.stm")
    expected = sclite(tmp_path, "r.stm", "stm", "h.ctm", "ctm")
    assert counts(metrics) == expected["Sum"]
    assert sum(counts(metrics)[:3]) > 30
    rows = {row["speaker"]: [row[k] for k in (*KINDS, "words")] for row in metrics["by_speaker"]}
    assert rows == {name.upper(): row for name, row in expected.items() if name.upper() in rows}
    assert any("excluded" in note for note in metrics["notes"])


def test_a_word_belongs_to_the_segment_that_holds_its_middle(tmp_path):
    write(
        tmp_path / "r.stm",
        ["t 1 ann 0 1 a", "t 1 bob 1 2 <o> b", "t 1 ann 3 4", "t 2 cid 0 9 c", "t 1 dan 8 9 e"],
    )
    words = ["t 1 0.1 0.2 a", "t 1 0.8 0.5 b", "t 1 2.5 0.2 gap", "t 1 9.5 1 e", "t 2 5 1 c"]
    pairs = read_pairs(tmp_path / "r.stm", write(tmp_path / "h.ctm", words))
    assert pairs.hypotheses == ["a", "b", "gap", "c", "e"]
    assert pairs.speakers == ["ann", "bob", "ann", "cid", "dan"]
    assert pairs.notes == ["2 words in no segment: given to the next one"]


FORMS = {
    "trn": ("a b (s-1)\nc (s-2)\n\n", "c (s-2)\n;; note\nA b (s-1)\n"),
    "jsonl": (
        '{"id": "s-1", "text": "a b", "speaker": "s"}\n{"id": "s-2", "text": "c"}\n',
        '{"utt_id": "s-2", "hypothesis": "c"}\n{"utt_id": "s-1", "pred_text": "A b"}\n',
    ),
    "csv": ("file_name,sentence\ns-1,a b\ns-2,c\n", "id,text\ns-2,c\ns-1,A b\n"),
    "": ("s-1 a b\ns-2 c\n", "s-2 c\ns-1 A b\n"),
    "txt": ("a b\nc\n", "A b\nc\n"),
}


@pytest.mark.parametrize("kind", FORMS)
def test_every_format_is_joined_by_id_or_by_line(tmp_path, kind):
    r, h = (tmp_path / f"{name}.{kind}".rstrip(".") for name in "rh")
    for path, content in zip((r, h), FORMS[kind], strict=True):
        path.write_text(content)
    assert counts(score_files(h, r)) == [1, 0, 0, 3]
    assert counts(score_files(h, r, normaliser="lower")) == [0, 0, 0, 3]


def test_hypotheses_of_an_evaluation_are_their_own_references(tmp_path):
    references, hypotheses = dialogue(20)
    first = score_files(
        trn(tmp_path / "h.trn", hypotheses), trn(tmp_path / "r.trn", references), output=tmp_path
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == first
    again = score_files(*[tmp_path / "hypotheses.jsonl"] * 2)
    assert counts(again) == counts(first)
    assert again["by_speaker"] == first["by_speaker"]


def test_manifests_of_nemo_tell_references_from_hypotheses(tmp_path):
    line = {"audio_filepath": "a.wav", "duration": 1.5, "text": "one two", "pred_text": "one"}
    parts = [line | {"offset": start} for start in (0, 2.5)]
    path = write(tmp_path / "out.json", map(json.dumps, parts))
    pairs = read_pairs(path, path)
    assert (pairs.references, pairs.hypotheses) == (["one two"] * 2, ["one"] * 2)
    assert pairs.ids == ["a.wav@0", "a.wav@2.5"]


MISTAKES = {
    "missing": ("a (s-1)\nb (s-2)\n", "a (s-1)\n", "h.trn: no hypothesis for s-2; add them"),
    "extra": ("a (s-1)\n", "a (s-1)\nb (s-2)\n", "r.trn: no reference for s-2; add"),
    "doubled": ("a (s-1)\n", "a (s-1)\nb (s-1)\n", "h.trn: more than one line for s-1; keep one"),
    "many": (
        "".join(f"a (s-{i})\n" for i in range(9)),
        "a (s-0)\n",
        "no hypothesis for s-1, s-2, s-3 and 5 more;",
    ),
    "no id": ("a (s-1)\n", "a\n", "h.trn, line 1 is not a text and then an id in parentheses: a"),
    "alternatives": ("{ a / b } (s-1)\n", "a (s-1)\n", "r.trn: s-1 has alternatives"),
    "nothing": ("", "", "r.trn: no utterances; check the file"),
    "no words": ("(s-1)\n", "(s-1)\n", "no reference words"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_files_that_do_not_match_are_refused(tmp_path, case):
    reference, hypothesis, message = MISTAKES[case]
    (tmp_path / "r.trn").write_text(reference)
    (tmp_path / "h.trn").write_text(hypothesis)
    with pytest.raises(ValueError, match=re.escape(message)):
        score_files(tmp_path / "h.trn", tmp_path / "r.trn")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"r.txt": "a\nb\n", "h.txt": "a\n"}, "r.txt and h.txt: 2 lines and 1; they must match"),
        ({"r.txt": "a\n", "h.trn": "a (s-1)\n"}, "plain text (.txt) has no ids"),
        (
            {"r.trn": "a (s-1)\n", "h.ctm": "s-1 1 0 1 a\n"},
            "give references as .stm with",
        ),
        (
            {"r.stm": "s 1 ann 0 1 a\n", "h.trn": "a (s-1)\n"},
            "give references as .stm with",
        ),
        ({"r.doc": "a\n", "h.doc": "a\n"}, "r.doc: rename it; .trn, .stm"),
        (
            {"r.txt": "u1 a\nu2 b\nu3 c\n", "h.txt": "u1 a\nu2 x\nu3 c\n"},
            "the same in both files (u1, u2, u3); if these are ids, remove .txt",
        ),
        ({"r.jsonl": '{"id": "1", "text": null}\n', "h.jsonl": "{}\n"}, "id: '1', text: None"),
        (
            {"r.stm": "t 1 ann 0 1 a\n", "h.ctm": "u 1 0 1 a\n"},
            "no segment of file and channel u 1",
        ),
        (
            {"r.stm": "t 1 ann 0 1 a\n", "h.ctm": "t 1 x 1 a\n"},
            "line 1 is not file, channel, begin,",
        ),
    ],
)
def test_formats_that_do_not_match_are_refused(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    reference, hypothesis = files
    with pytest.raises(ValueError, match=re.escape(message)):
        score_files(tmp_path / hypothesis, tmp_path / reference)


def test_missing_hypotheses_count_as_deleted_on_request(tmp_path):
    (tmp_path / "r.trn").write_text("a b (s-1)\nc (t-1)\n")
    (tmp_path / "h.trn").write_text("c (t-1)\n")
    metrics = score_files(tmp_path / "h.trn", tmp_path / "r.trn", missing_as_empty=True)
    assert counts(metrics) == [0, 2, 0, 3]
    assert "no hypothesis for s-1: their words count as deleted" in scores_summary(metrics)


def test_texts_without_spaces_show_the_cer_first(tmp_path):
    (tmp_path / "r.txt").write_text("今天天气很好我们去公园散步吧\n打开空调\n", encoding="utf-8")
    (tmp_path / "h.txt").write_text("今天天气很好我们去花园散步吧\n打开空调\n", encoding="utf-8")
    metrics = score_files(tmp_path / "h.txt", tmp_path / "r.txt")
    assert metrics["headline"] == "cer"
    assert metrics["cer"]["rate"] == 1 / 18
    lines = scores_summary(metrics).splitlines()
    assert [line[:3] for line in lines[1:3]] == ["CER", "WER"]


def test_single_words_of_a_script_with_spaces_show_the_wer_first(tmp_path):
    (tmp_path / "r.txt").write_text("seven\nthree\n")
    (tmp_path / "h.txt").write_text("seven\nfree\n")
    assert score_files(tmp_path / "h.txt", tmp_path / "r.txt")["headline"] == "wer"


def test_whispers_normaliser_writes_numbers_in_digits(tmp_path):
    pytest.importorskip("whisper_normalizer")
    (tmp_path / "r.txt").write_text("Mr. Smith paid $25 for the colour.\n")
    (tmp_path / "h.txt").write_text("mister smith paid twenty-five dollars for the color\n")
    assert counts(score_files(tmp_path / "h.txt", tmp_path / "r.txt", normaliser="whisper"))[3] == 7
    metrics = score_files(tmp_path / "h.txt", tmp_path / "r.txt", normaliser="whisper")
    assert metrics["wer"]["rate"] == 0
