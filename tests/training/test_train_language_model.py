import gzip
import itertools
import json
import math
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from asr.cli import main
from asr.config import strict_yaml
from asr.data.sentences import TextData, TextOptions, read_sentences
from asr.language_models.folder import load_language_model
from asr.metering.ledger_format import read_ledger
from asr.model import give_language_model, load_model, save_model
from asr.recipe.schema import LanguageModelRecipe
from asr.search import Beam
from asr.text.tokenizers import Characters
from asr.training.run import train as train_language_model
from asr.training.summary import trained_language_model
from tests.corpus import make_corpus, train_batches
from tests.test_model import tiny_model

WORDS = ["ab", "ba", "ca", "abc", "cab", "bc"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A speech model, a prepared corpus and a text in which every other word is the same."""
    folder = tmp_path_factory.mktemp("text")
    save_model(tiny_model(), folder / "speech", {})
    make_corpus(folder / "corpus", train=12, validation=8, test=3)
    lines = [f"ab {a} ab {b}" for a in WORDS for b in WORDS for _ in range(3)]
    (folder / "text.txt").write_text("\n".join([*lines, "", "ca ca"]))
    (folder / "held.txt").write_text("ab ba ab ca\nab cab ab bc\n")
    return folder


def recipe(place, kind="LSTM", budget=None, **keys):
    options = {"LSTM": {"width": 16}, "NGram": {"order": 3}, "WordNGram": {"order": 2}, "Transformer": {"width": 16, "layers": 1, "heads": 2}}  # fmt: skip # noqa: E501
    tree = {
        "text": {
            "train": [str(place / "text.txt")],
            "validation": str(place / "held.txt"),
            "max_batch_tokens": 200,
        },
        "tokenizer_of": str(place / "speech"),
        "language_model": {"class_path": kind, "init_args": options[kind]},
        "budget": budget or {"updates": 60},
        "optimizer": {"lr": 1e-2, "warmup_updates": 5, "ema_decay": 0.9},
        "validation": {"every_updates": 20},
    }
    return strict_yaml.read(LanguageModelRecipe, tree | keys)


@pytest.mark.parametrize("kind", ["LSTM", "NGram", "Transformer", "WordNGram"])
def test_a_trained_model_has_the_perplexity_that_its_run_recorded(place, tmp_path, kind):
    last = train_language_model(recipe(place, kind), tmp_path / "run")
    assert last["finished"]
    trained = load_language_model(tmp_path / "run")
    lines = [e for e in read_ledger(tmp_path / "run") if e.get("validation")]
    told = min((line["validation"] for line in lines), key=lambda v: v["loss"])
    total = words = 0
    for sentence in (place / "held.txt").read_text().splitlines():
        ids = torch.tensor([trained.tokenizer.encode(sentence)])
        with torch.no_grad():
            total -= float(trained.model.log_probs(ids, torch.tensor([ids.shape[1]])).sum())
        words += len(sentence.split()) + 1
    assert told["word_perplexity"] == pytest.approx(math.exp(total / words), rel=1e-4)
    # Better than letters at random: V - 1 of them, five and more to a word and its space.
    assert told["perplexity"] < 3
    assert last["device_hours"] > 0
    assert last["tokens"] > 0
    assert (last["train_flops"] > 0) == ("NGram" not in kind)


def arpa_file(path, *words):
    lines = [f"-0.9\t{word}" for word in ("<s>", "</s>", *words)]
    path.write_text(
        "\n".join(["\\data\\", f"ngram 1={len(lines)}", "\\1-grams:", *lines, "\\end\\"])
    )
    return {"class_path": "NGram", "init_args": {"order": 1, "arpa": str(path)}}


def test_an_arpa_file_replaces_counting_text(place, tmp_path):
    model = arpa_file(tmp_path / "lm.arpa", "<unk>", "▁", "a", "b", "c")
    last = train_language_model(recipe(place, "NGram", language_model=model), tmp_path / "run")
    assert (last["tokens"], last["reason"]) == (0, f"{tmp_path / 'lm.arpa'} read")
    (line,) = [e for e in read_ledger(tmp_path / "run") if e.get("validation")]
    assert line["validation"]["perplexity"] == pytest.approx(10**0.9)


def test_a_model_without_a_perplexity_is_refused_and_leaves_nothing(place, tmp_path):
    (tmp_path / "held.txt").write_text("ab?\n")
    model = arpa_file(tmp_path / "lm.arpa", "▁", "a", "b", "c")
    text = {"train": [str(place / "text.txt")], "validation": str(tmp_path / "held.txt")}
    given = recipe(place, "NGram", language_model=model, text=text)
    with pytest.raises(ValueError, match="has a token to which the n-grams give no probability"):
        train_language_model(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    given = recipe(place, "NGram", language_model=model)  # a text of known tokens alone
    assert train_language_model(given, tmp_path / "run")["finished"]


def test_the_validation_text_is_never_trained_on(place):
    options = TextOptions(train=[str(place / "text.txt")], validation=str(place / "held.txt"))
    data = TextData(options, Characters(["abc "]), str, seed=1)
    assert len(read_sentences(str(place / "text.txt"), "train", str)) == 6 * 6 * 3 + 1
    assert len(data.train.ids) == 6 * 6 * 3 + 1 - 2 * 3
    assert not {tuple(i) for i in data.train.ids} & {tuple(i) for i in data.validation.ids}


def test_text_comes_from_files_gzipped_files_and_transcripts(place, tmp_path):
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"AB  ca\n\nba\n"))
    assert read_sentences(str(tmp_path / "text.gz"), "train", str.lower) == ["ab  ca", "ba"]
    assert len(read_sentences(str(place / "corpus"), "validation", str)) == 8


@pytest.mark.parametrize("name", ["text.txt", "text.gz"])
def test_each_line_is_one_sentence(tmp_path, name):
    # With a byte order mark, ends of lines of Windows, and separators that are not of lines.
    content = "\ufeffab  ca\r\n \t\r\nb\u2028a\x0cc\nba".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = read_sentences(str(tmp_path / name), "train", str)
    assert found == ["ab  ca", "b\u2028a\x0cc", "ba"]


def test_a_file_that_is_not_text_is_refused_in_one_line(tmp_path):
    packed = gzip.compress(b"ab ba ca\n" * 500)
    flipped = bytes([*packed[:10], packed[10] | 6, *packed[11:]])  # a block of no known type
    contents = {
        "flipped.gz": (flipped, "flipped.gz is damaged (Error -3 while decompressing data"),
        "torn.gz": (packed[:40], "torn.gz is damaged (Compressed file ended before the end"),
        "plain.gz": (b"ab ba\n", "plain.gz is damaged (Not a gzipped file"),
        "latin.txt": ("\xe9t\xe9\n".encode("latin-1"), "latin.txt is not UTF-8 text ("),
        "empty.txt": (b" \n\n", "empty.txt holds no sentence; give another"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            read_sentences(str(tmp_path / name), "train", str)
        assert "\n" not in str(error.value)


def test_batches_depend_only_on_seed_and_position(place):
    options = TextOptions(
        train=[str(place / "text.txt")], validation=str(place / "held.txt"), max_batch_tokens=100
    )
    data = TextData(options, Characters(["abc "]), str, seed=1)
    stream = train_batches(data)
    first = [next(stream) for _ in range(40)]
    again = train_batches(data, 25)
    for tokens, lengths in first[25:]:
        other = next(again)
        assert torch.equal(tokens, other[0])
        assert torch.equal(lengths, other[1])
    assert all(tokens.shape[0] * (tokens.shape[1] + 1) <= 100 for tokens, _ in first)


def test_a_curriculum_begins_with_short_sentences(tmp_path):
    lines = ["ab " * length for length in range(1, 9)]  # 3 tokens a word, and an end
    (tmp_path / "text.txt").write_text("\n".join(lines))
    (tmp_path / "held.txt").write_text("ba\n")
    sources = {"train": [str(tmp_path / "text.txt")], "validation": str(tmp_path / "held.txt")}

    def lengths(*limits):
        options = TextOptions(**sources, max_batch_tokens=1, curriculum_tokens=list(limits))
        stream = train_batches(TextData(options, Characters(["ab "]), str, seed=1))
        return [int(lengths) for _, lengths in itertools.islice(stream, 8)]

    everything = set(lengths())
    first = [size for size in everything if size + 1 <= 13]
    assert sorted(lengths(13)[: len(first)]) == sorted(first)
    assert len(first) < len(everything) == 8
    with pytest.raises(ValueError, match="nothing is as short as 2 "):
        lengths(2)


def test_a_run_that_gets_sigterm_resumes_like_an_uninterrupted_one(place, tmp_path):
    keys = {"validation": {"every_updates": 200}, "trainer": {"devices": 1}}
    given = recipe(place, budget={"updates": 400}, **keys)
    strict_yaml.dump(strict_yaml.tree_of(given), tmp_path / "recipe.yaml")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "asr", "train", str(tmp_path / "recipe.yaml")]
    process = subprocess.Popen([*command, "--run", str(run)], stderr=subprocess.PIPE, text=True)
    while not (run / "ledger.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "saved at update" in errors
    train_language_model(given, run)
    train_language_model(given, tmp_path / "whole")
    one, other = (
        load_language_model(f / "last").model.state_dict() for f in (run, tmp_path / "whole")
    )
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    tokens = [
        json.loads((f / "ledger.json").read_text())["tokens"] for f in (run, tmp_path / "whole")
    ]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("changed", ["text.txt", "held.txt"])
def test_a_run_is_not_resumed_with_a_changed_text(place, tmp_path, changed):
    for name in ("text.txt", "held.txt"):
        (tmp_path / name).write_text((place / name).read_text())
    text = {"train": [str(tmp_path / "text.txt")], "validation": str(tmp_path / "held.txt")}
    train_language_model(recipe(place, text=text, budget={"updates": 2}), tmp_path / "run")
    before = (tmp_path / changed).read_text()
    (tmp_path / changed).write_text(before[::-1])  # as many sentences and tokens
    more = recipe(place, text=text, budget={"updates": 4})
    with pytest.raises(ValueError, match="the text changed since the run began"):
        train_language_model(more, tmp_path / "run")
    (tmp_path / changed).write_text(before)
    assert train_language_model(more, tmp_path / "run")["updates"] == 4


@pytest.mark.parametrize("lm_weight", [0.5, [0.3, 0.2]])
def test_a_speech_model_keeps_the_language_models_that_it_was_given(place, tmp_path, lm_weight):
    train_language_model(recipe(place, "NGram"), tmp_path / "lm")
    model = load_model(
        place / "speech", search={"class_path": "Beam", "init_args": {"lm_weight": lm_weight}}
    )
    give_language_model(model, tmp_path / "lm" if lm_weight == 0.5 else [tmp_path / "lm"] * 2)
    waves, lengths = 0.1 * torch.randn(2, 8000), torch.tensor([8000, 6000])
    before = model.recognise(waves, lengths)
    assert before[0][0].lm_score < 0
    save_model(model, tmp_path / "with", {})
    after = load_model(tmp_path / "with")
    assert after.recognise(waves, lengths) == before
    if lm_weight != 0.5:  # the mixture of a model with itself is that model
        give_language_model(model, tmp_path / "lm")
        model.search = Beam(lm_weight=0.5)
        [[one, *_], _], [[other, *_], _] = model.recognise(waves, lengths), before
        assert (one.tokens, one.score) == (other.tokens, pytest.approx(other.score, abs=1e-3))


def test_a_language_model_with_other_tokens_is_refused_in_one_line(place, tmp_path):
    train_language_model(recipe(place, "NGram"), tmp_path / "lm")
    other = tiny_model()
    other.tokenizer = Characters(["xyz "])
    with pytest.raises(ValueError, match="knows other tokens than the speech model"):
        give_language_model(other, tmp_path / "lm")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text.train": "[nowhere.txt]"}, "nowhere.txt: no such text file or prepared corpus"),
        ({"tokenizer_of": "nowhere"}, "nowhere: no such model or run folder"),
        ({"budget": "{audio_hours: 1}"}, "text has none; set updates, device_hours or cpu_hours"),
        ({"text.trian": "[x]"}, "trian"),
        ({"language_model": "Conformer"}, "Conformer"),
    ],
)
def test_wrong_options_are_one_line_and_leave_nothing(place, tmp_path, capsys, keys, message):
    strict_yaml.dump(strict_yaml.tree_of(recipe(place)), tmp_path / "recipe.yaml")
    words = [word for key, value in keys.items() for word in (f"--{key}", value)]
    command = ["train", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "run"), *words]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_language_model_without_a_weight_in_the_search_is_refused(place, tmp_path, capsys):
    train_language_model(recipe(place, "NGram"), tmp_path / "lm")
    weights = (tmp_path / "lm" / "best" / "model.safetensors").stat().st_size / 2**20
    assert f"tokens, n-grams of {weights:.3g} MiB, seed 1" in trained_language_model(
        tmp_path / "lm"
    )
    words = ["evaluate", str(place / "speech"), "--corpus", str(place / "corpus")]
    given = [*words, "--language-model", str(tmp_path / "lm"), "--output", str(tmp_path / "out")]
    assert main(given) == 2
    assert "gives it no weight; run asr tune-decoding" in capsys.readouterr().err
    (tmp_path / "beam.yaml").write_text("class_path: Beam\ninit_args: {beam: 2, lm_weight: 0.4}\n")
    assert main([*given, "--search", str(tmp_path / "beam.yaml")]) == 0
    assert "lm_weight=0.4" in (tmp_path / "out" / "metrics.json").read_text()
    twice = [*given, "--language-model", str(tmp_path / "lm"), "--search"]
    assert main([*twice, str(tmp_path / "beam.yaml")]) == 2
    assert "the number of language models is 2: give a list" in capsys.readouterr().err
    (tmp_path / "two.yaml").write_text(
        "class_path: Beam\ninit_args: {beam: 2, lm_weight: [0.4, 0.1]}\n"
    )
    assert main([*given, "--search", str(tmp_path / "two.yaml")]) == 2
    refused = capsys.readouterr().err
    assert "is [0.4, 0.1], but the number of language models is 1" in refused
    assert "asr tune-decoding stores" in refused
    assert refused.count("\n") == 1
    assert main([*twice, str(tmp_path / "two.yaml")]) == 0
    assert "lm_weight=[0.4, 0.1]" in (tmp_path / "out" / "metrics.json").read_text()
