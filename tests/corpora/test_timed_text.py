"""STM, subtitles and TextGrids, as their own tools write them."""

import pytest

from asr.corpora.folder import Folder
from asr.corpora.prepare import prepare
from tests.layout_folders import plain, record, rows, shown, write


def test_stm_segments_name_recordings_anywhere_in_the_folder(tmp_path):
    record(tmp_path / "sph" / "talk_2009.wav")
    record(tmp_path / "sph" / "call.wav", channels=2)
    write(
        tmp_path / "stm" / "all.stm",
        ";; CATEGORY\n"
        "talk_2009 1 ann 0.50 1.75 <o,f0,female> good morning\n"
        "talk_2009 1 inter_segment_gap 1.75 2.0 <o,f0,> ignore_time_segment_in_scoring\n"
        "call A ann 0 1 <o> left\ncall B bob 0.0 1.0 right\n"
        "call B bob one 1.0 x\ncall B bob 1 2 { um / uh } yes\n",
    )
    assert shown(tmp_path) == {
        ("call@0.000-ann", "left", "ann", 0.0, 1.0, 0),
        ("call@0.000-bob", "right", "bob", 0.0, 1.0, 1),
        ("talk_2009@0.500-ann", "good morning", "ann", 0.5, 1.25, None),
        ("talk_2009@1.750-inter_segment_gap", "", "inter_segment_gap", 1.75, 0.25, None),
        "all.stm, line 6: needs file, channel, speaker, start, end and text",
        "all.stm, line 7: its text has alternatives ({ um / uh } yes); write one of them",
    }


SRT = """1
00:00:00,500 --> 00:00:01,750
{\\an8}<i>Good</i> morning,
<font color="#fff">everybody</font> & <unk>

2
00:00:01,750 --> 00:00:02,000

3
0:0:2,0 --> 0:0:3,000
- a <b>dash</b>

no time
"""
VTT = """WEBVTT - a title

STYLE
::cue { color: red }

NOTE a remark

intro
00:00.500 --> 00:01.750 align:start position:0%
<v.loud Ann Lee>Good <00:00:01.000><c.x>morning</c></v> &amp; hello

00:01.750 --> 00:02.500
<v Bob>Yes
<v Ann>No
"""


def test_subtitles_are_utterances(tmp_path):
    for name in ("x/talk.mp3.flac", "show.flac"):
        record(tmp_path / name)
    write(tmp_path / "x" / "talk.mp3.srt", SRT.replace("\n", "\r\n"))
    write(tmp_path / "show.en.vtt", VTT)
    assert shown(tmp_path) == {
        ("show@0.500-Ann Lee", "Good morning & hello", "Ann Lee", 0.5, 1.25, None),
        ("show@1.750", "Yes No", "", 1.75, 0.75, None),
        "x/talk.mp3, part 4: block 4 of talk.mp3.srt has no times: no time",
        ("x/talk.mp3@0.500", "Good morning, everybody & <unk>", "x", 0.5, 1.25, None),
        ("x/talk.mp3@1.750", "", "x", 1.75, 0.25, None),
        ("x/talk.mp3@2.000", "- a dash", "x", 2.0, 1.0, None),
    }
    dropped = prepare(Folder(path=tmp_path), tmp_path / "out")["preflight"]["train"]["dropped"]
    assert dropped["empty_text"] == ["x/talk.mp3@1.750"]


ROLLING = """WEBVTT
Kind: captions

00:00:00.160 --> 00:00:01.389 align:start position:0%
 
hello<00:00:00.480><c> there</c>

00:00:01.389 --> 00:00:01.399 align:start position:0%
hello there
 

00:00:01.399 --> 00:00:02.500 align:start position:0%
hello there
and<00:00:01.500><c> more</c>

00:00:02.600 --> 00:00:02.900
and more
"""  # noqa: W291, W293


def test_a_line_that_rolling_captions_repeat_is_named_and_not_learnt_twice(tmp_path):
    record(tmp_path / "talk.flac")
    write(tmp_path / "talk.en.vtt", ROLLING)
    assert shown(tmp_path) == {
        ("talk@0.160", "hello there", "", 0.16, 1.389 - 0.16, None),
        "talk, part 2: block 3 of talk.en.vtt repeats the line before: hello there",
        "talk, part 3: block 4 of talk.en.vtt repeats the line before: hello there",
        ("talk@2.600", "and more", "", 2.6, 2.9 - 2.6, None),  # after a pause it is said again
    }


def test_subtitles_and_texts_of_one_recording_are_named_until_a_layout_is_chosen(tmp_path):
    record(tmp_path / "talk.flac")
    write(tmp_path / "talk.srt", SRT)
    write(tmp_path / "talk.txt", "all of it")
    with pytest.raises(ValueError, match="talk.srt, .*talk.txt are all there; keep one"):
        rows(tmp_path)
    assert shown(tmp_path, layout="text") == {plain("talk", "all of it")}
    assert len(shown(tmp_path, layout="subtitles")) == 4


LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "ann"
        xmin = 0
        xmax = 3
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 1.5
            text = "she said ""no"" 12
times"
        intervals [2]:
            xmin = 1.5
            xmax = 3
            text = ""
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 3
        points: size = 1
        points [1]:
            number = 1.5
            mark = "click"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
3
<exists>
2
"IntervalTier"
"ann"
0
3
1
0
3
"grüße"
"IntervalTier"
"bob"
0
3
1
0
1
"hello"
"""


def test_textgrids_of_praat_are_read_in_both_text_formats(tmp_path):
    for name in ("ann/long", "short"):
        record(tmp_path / f"{name}.flac")
    write(tmp_path / "ann" / "long.TextGrid", LONG)
    (tmp_path / "short.TextGrid").write_text(SHORT, "utf-16")  # as Praat writes other letters
    assert shown(tmp_path) == {
        ("ann/long@0.000", 'she said "no" 12 times', "ann", 0.0, 1.5, None),
        ("short@0.000-ann", "grüße", "ann", 0.0, 3.0, None),
        ("short@0.000-bob", "hello", "bob", 0.0, 1.0, None),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            SHORT.replace('"bob"', '"ann - words"'),
            r"tiers of single words or sounds \(ann - words\)",
        ),
        (SHORT[:-20], "is not a TextGrid in a text format"),
        ("ooBinaryFile", "is not a TextGrid in a text format"),
    ],
)
def test_textgrids_without_utterances_are_refused(tmp_path, text, words):
    record(tmp_path / "a.flac")
    write(tmp_path / "a.TextGrid", text)
    with pytest.raises(ValueError, match=f"a.TextGrid {words}|a.TextGrid has {words}"):
        rows(tmp_path)
