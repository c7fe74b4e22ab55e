import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from asr.files import write
from asr.recognition.transcript import Transcript, Word
from asr.recognition.writers import FORMATS, clock, lines, pieces, segments, width


def transcript(words, duration=10.0, notes=()):
    text = " ".join(word.text for word in words)
    return Transcript(
        source="x/a.wav", name="x-a", text=text, words=tuple(words), duration=duration,
        model="runs/x", search="Greedy()", score=-1.5, formats=("json",), recording=None,
        notes=notes,
    )  # fmt: skip


HELLO = transcript(
    [
        Word("rock", 0.5, 0.9, 0.98765),
        Word("&", 0.95, 1.1, None),
        Word("<roll>", 1.2, 2.0, 0.5),
        Word("-->", 3.0, 4.25, 1.0),
    ]
)


def test_srt_has_the_format_that_players_read():
    assert FORMATS["srt"].write(HELLO) == (
        "1\n00:00:00,500 --> 00:00:02,000\nrock & <roll>\n\n2\n00:00:03,000 --> 00:00:04,250\n->\n"
    )


def test_vtt_escapes_markup():
    assert FORMATS["vtt"].write(HELLO) == (
        "WEBVTT\n"
        "\n00:00:00.500 --> 00:00:02.000\nrock &amp; &lt;roll&gt;\n"
        "\n00:00:03.000 --> 00:00:04.250\n--&gt;\n"
    )


def test_tsv_has_one_word_a_line():
    assert FORMATS["tsv"].write(HELLO).splitlines() == [
        "start\tend\tword\tconfidence",
        "0.500\t0.900\trock\t0.9877",
        "0.950\t1.100\t&\t",
        "1.200\t2.000\t<roll>\t0.5000",
        "3.000\t4.250\t-->\t1.0000",
    ]


# sctk's infmts.htm: F, C, BT, DUR and the word, parted by white space; CONF may be missing.
CTM = re.compile(
    r"(?m)^([^\s/]+)[ \t]+(\S+)[ \t]+([\d.]+)[ \t]+([\d.]+)[ \t]+(\S+)(?:[ \t]+(\S+))?$"
)


def test_ctm_holds_the_same_words_as_json():
    shown = FORMATS["ctm"].write(HELLO)
    records = CTM.findall(shown)
    assert len(records) == shown.count("\n") == 4
    words = json.loads(FORMATS["json"].write(HELLO))["words"]
    for (waveform, channel, start, duration, text, confidence), word in zip(
        records, words, strict=True
    ):
        assert (waveform, channel, text) == ("x-a", "1", word["word"])
        assert float(start) == word["start"]
        assert float(start) + float(duration) == pytest.approx(word["end"], abs=1e-9)
        assert (float(confidence) if confidence else None) == word["confidence"]


@pytest.mark.parametrize(
    ("name", "waveform"), [("talk.v2", "talk.v2"), ("my own  talk", "my_own_talk")]
)
def test_ctm_names_the_waveform_without_blanks(name, waveform):
    shown = FORMATS["ctm"].write(replace(transcript([HELLO.words[0]]), name=name))
    assert [record[0] for record in CTM.findall(shown)] == [waveform]


def test_ctm_times_add_up_to_the_ends_in_json_however_they_are_rounded():
    generator = np.random.default_rng(0)
    edges = np.cumsum(generator.uniform(0, 0.05, 1000)).reshape(500, 2)
    words = [Word("a", start, end, 1.0) for start, end in edges.tolist()]
    shown = transcript(words, 1000.0)
    records = CTM.findall(FORMATS["ctm"].write(shown))
    ends = [float(start) + float(duration) for _, _, start, duration, _, _ in records]
    wanted = [word["end"] for word in json.loads(FORMATS["json"].write(shown))["words"]]
    assert ends == pytest.approx(wanted, abs=1e-9)


def test_txt_holds_only_the_text():
    assert FORMATS["txt"].write(HELLO) == "rock & <roll> -->\n"


def test_json_holds_text_segments_words_and_where_they_come_from():
    content = json.loads(FORMATS["json"].write(HELLO))
    assert content["text"] == "rock & <roll> -->"
    assert content["source"] == "x/a.wav"
    assert content["model"] == "runs/x"
    assert content["duration"] == 10.0
    assert content["score"] == -1.5
    assert content["segments"][1] == {"start": 3.0, "end": 4.25, "text": "-->"}
    assert content["words"][0] == {"word": "rock", "start": 0.5, "end": 0.9, "confidence": 0.9877}


@pytest.mark.parametrize("kind", list(FORMATS))
def test_an_empty_transcript_has_a_file_in_every_format(kind):
    text = FORMATS[kind].write(transcript([], 0.0, ("silent",)))
    assert text.strip() in ("", "WEBVTT", "start\tend\tword\tconfidence") or json.loads(text)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "00:00:00,000"),
        (59.9996, "00:01:00,000"),
        (3599.9994, "00:59:59,999"),
        (3661.5, "01:01:01,500"),
        (360000, "100:00:00,000"),
    ],
)
def test_clock_times_carry_into_seconds_minutes_and_hours(seconds, expected):
    assert clock(seconds, ",") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", ["short"]),
        ("a" * 42, ["a" * 42]),
        ("aaaa " * 9 + "aaaa", ["aaaa aaaa aaaa aaaa aaaa", "aaaa aaaa aaaa aaaa aaaa"]),
        ("a" * 50, ["a" * 25, "a" * 25]),
        ("今天天气" * 6, ["今天天气" * 3, "今天天气" * 3]),  # each is as wide as two letters
        ("a " + "b" * 60, ["a " + "b" * 29, "b" * 31]),
    ],
)
def test_two_lines_of_a_subtitle_are_as_equal_in_length_as_possible(text, expected):
    assert lines(text) == expected


def speech(count, seconds=0.3, gap=0.1, text="word"):
    step = seconds + gap
    return [Word(f"{text}{i}", i * step, i * step + seconds, 1.0) for i in range(count)]


@pytest.mark.parametrize(("seconds", "gap"), [(0.3, 0.1), (0.2, 0.0), (2.0, 0.5), (0.05, 0.01)])
def test_every_subtitle_has_at_most_two_lines_and_seven_seconds_without_overlap(seconds, gap):
    words = speech(200, seconds, gap)
    shown = segments(words, words[-1].end)
    assert " ".join(segment.text for segment in shown).split() == [word.text for word in words]
    for segment in shown:
        assert segment.end - segment.start <= 7.0 + 1e-9
        assert len(lines(segment.text)) <= 2
        assert all(len(line) <= 42 for line in lines(segment.text))
    for left, right in zip(shown, shown[1:], strict=False):
        assert left.end <= right.start + 1e-9


def test_a_pause_ends_a_subtitle():
    words = [Word("one", 0, 0.5, 1.0), Word("two", 0.6, 1.5, 1.0), Word("three", 2.5, 3.9, 1.0)]
    assert [s.text for s in segments(words, 5.0)] == ["one two", "three"]


def test_a_long_subtitle_is_split_at_its_longest_gap():
    words = speech(12, seconds=0.5, gap=0.2)
    later = [Word(w.text, w.start + 0.5, w.end + 0.5, 1.0) for w in words[5:]]
    shown = segments(words[:5] + later, 20.0)
    assert shown[0].text.split()[-1] == "word4"
    assert shown[1].text.split()[0] == "word5"


def test_a_short_word_is_shown_for_a_second_unless_the_next_word_or_the_end_comes_first():
    words = [Word("a", 0, 0.04, 1.0), Word("b", 0.9, 0.94, 1.0), Word("c", 5, 5.04, 1.0)]
    assert [(s.start, s.end) for s in segments(words, 5.5)] == [(0, 0.9), (0.9, 1.9), (5, 5.5)]


def test_a_word_longer_than_a_subtitle_is_shown_for_seven_seconds():
    assert [(s.start, s.end) for s in segments([Word("aum", 1, 30, 1.0)], 31)] == [(1, 8)]


def test_an_output_file_is_complete_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write(path, "first ä\n")
    assert path.read_text(encoding="utf-8") == "first ä\n"

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="cannot write .*a.txt .No space left on device"):
        write(path, "second")
    assert path.read_text(encoding="utf-8") == "first ä\n"
    assert os.listdir(tmp_path) == ["a.txt"]


CHINESE = "今天天气很好我们去公园散步吧，" * 8


def test_a_text_without_spaces_is_parted_at_times_and_its_lines_are_short():
    shown = segments([Word(CHINESE, 0.2, 24.2, 0.9)], 25.0)
    assert "".join(segment.text for segment in shown) == CHINESE
    for segment in shown:
        assert all(width(line) <= 42 and line[0] != "，" for line in lines(segment.text))
        assert segment.end - segment.start <= 7
        begin = sum(len(before.text) for before in shown[: shown.index(segment)])
        assert segment.start == pytest.approx(0.2 + 24 * begin / len(CHINESE))


def test_a_pause_between_characters_ends_a_subtitle():
    # Five characters of 0.2 s, a pause of 2 s, and five more.
    times = [0.2 * i + 2.0 * (i > 4) for i in range(10)]
    spans = tuple((start / 4, (start + 0.2) / 4) for start in times)
    shown = segments([Word("今天天气很我们去公园", 1.0, 5.0, 0.9, spans)], 9.0)
    assert [(s.text, s.start) for s in shown] == [("今天天气很", 1.0), ("我们去公园", 4.0)]
    assert shown[0].end == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("今天，好「的」。", ["今", "天，", "好", "「的」。"]),
        ("用windows电脑", ["用", "windows", "电", "脑"]),
        ("コンピューター", ["コ", "ン", "ピュー", "ター"]),
        ("เก่าน้ำ", ["เก่า", "น้ำ"]),
        ("कैसे", ["कैसे"]),
        ("Donaudampfschiff", ["Donaudampfschiff"]),
        ("ក្រុម", ["ក្រុ", "ម"]),
    ],
)
def test_lines_end_only_where_a_script_allows_it(word, expected):
    assert pieces(word) == expected


def test_a_fast_subtitle_stays_until_it_can_be_read_or_the_next_begins():
    words = [Word("x" * 20, 0, 0.5, 1.0), Word("y" * 20, 1.4, 2.0, 1.0), Word("z" * 20, 9, 9.5, 1)]
    ends = [s.end for s in segments(words, 20.0, 10.0)]
    assert ends == [1.4, pytest.approx(3.4), pytest.approx(11.0)]
    assert [s.end for s in segments(words, 20.0)] == [1.0, 2.4, 10.0]
    assert [s.end for s in segments(words, 9.7, 10.0)][-1] == 9.7
    limited = replace(transcript(words, 20.0), max_chars_per_second=10.0)
    for kind in ("srt", "vtt"):
        assert "03.400" in FORMATS[kind].write(limited).replace(",", ".")
    assert json.loads(FORMATS["json"].write(limited))["segments"][2]["end"] == 11.0
