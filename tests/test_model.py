import json
from types import SimpleNamespace

import pytest
import torch

from asr.audio.features import FeatureOptions
from asr.config.strict_yaml import read_component
from asr.decoders import DECODERS
from asr.encoders import ENCODERS
from asr.model import SpeechModel, build_model, corpus_of, find_model, load_model, save_model
from asr.search import SEARCHES
from asr.text.tokenizers import Characters
from tests.tiny import DECODER_BUILDERS, ENCODER_BUILDERS

PAIRS = [(encoder, decoder) for encoder in ENCODERS for decoder in DECODERS]


def tiny_model(encoder: str = "LSTM", decoder: str = "AttentionLSTM") -> SpeechModel:
    torch.manual_seed(0)
    builder, decoder_args = ENCODER_BUILDERS[encoder], DECODER_BUILDERS[decoder].keywords
    return build_model(
        FeatureOptions(sample_rate=8000, num_mels=16),
        read_component(
            ENCODERS,
            {"class_path": builder.func.__name__, "init_args": builder.keywords},
            "encoder",
            1,
        ),
        read_component(DECODERS, {"class_path": decoder, "init_args": decoder_args}, "decoder", 2),
        read_component(SEARCHES, "Beam", "search"),
        Characters(["abc "]),
        "none",
    ).eval()


def batch(*lengths, rubbish=0.0):
    generator = torch.Generator().manual_seed(3)
    waves = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator)
    sizes = torch.tensor(lengths)
    return waves.masked_fill(torch.arange(max(lengths)) >= sizes[:, None], rubbish), sizes


def test_times_follow_the_frames_of_the_encoder():
    assert tiny_model("Transformer chunk").frame_seconds == pytest.approx(0.04)
    assert tiny_model("Transformer chunk of 80 ms").frame_seconds == pytest.approx(0.08)
    assert tiny_model("LSTM causal projected of 80 ms").frame_seconds == pytest.approx(0.16)


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
@pytest.mark.parametrize("rubbish", [0.0, 1e4])
def test_frames_loss_and_transcript_do_not_depend_on_the_batch(encoder, decoder, rubbish):
    model = tiny_model(encoder, decoder)
    waves, lengths = batch(12000, 7001, 2000, rubbish=rubbish)
    tokens = torch.tensor([[3, 4, 5, 6], [4, 4, 0, 0], [5, 0, 0, 0]])
    sizes = torch.tensor([4, 2, 1])
    if rubbish:
        tokens = tokens.masked_fill(torch.arange(4) >= sizes[:, None], 5)
    together, frames = model.encode(waves, lengths)
    losses, _ = model(waves, lengths, tokens, sizes)
    found = model.recognise(waves, lengths)
    sums = dict.fromkeys(losses.terms, 0.0)
    for i in range(3):
        row = (waves[i : i + 1, : lengths[i]], lengths[i : i + 1])
        alone, size = model.encode(*row)
        assert size == frames[i]
        torch.testing.assert_close(together[i, :size], alone[0], atol=1e-4, rtol=0)
        loss, _ = model(*row, tokens[i : i + 1, : sizes[i]], sizes[i : i + 1])
        for name, term in loss.terms.items():
            sums[name] += term.sum.item()
        single = model.recognise(*row)[0]
        assert model.text(single[0]) == model.text(found[i][0])
        assert single[0].score == pytest.approx(found[i][0].score, abs=1e-4)
    for name, term in losses.terms.items():
        assert term.sum.item() == pytest.approx(sums[name], abs=1e-3)


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_a_saved_and_loaded_model_gives_the_same_results(tmp_path, encoder, decoder):
    model = tiny_model(encoder, decoder)
    model.features.fit([0.1 * torch.randn(8000)])
    save_model(model, tmp_path / "best", {"updates": 3})
    loaded = load_model(tmp_path)
    assert loaded.summary == {"updates": 3}
    assert loaded.description == model.description
    assert not loaded.training
    waves, lengths = batch(9000, 5000)
    assert torch.equal(loaded.encode(waves, lengths)[0], model.encode(waves, lengths)[0])
    assert loaded.recognise(waves, lengths) == model.recognise(waves, lengths)
    assert {p.name for p in (tmp_path / "best").iterdir()} == {"model.json", "model.safetensors"}


def test_another_search_can_be_chosen_when_loading(tmp_path):
    save_model(tiny_model(), tmp_path, {})
    model = load_model(tmp_path, search={"class_path": "Beam", "init_args": {"beam": 2}})
    assert model.search.beam == 2
    with pytest.raises(ValueError, match="search.class_path 'Bean' is no Search"):
        load_model(tmp_path, search="Bean")


def damage_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def damage_description(folder):
    (folder / "model.json").write_text("{")


def mismatch(folder):
    path = folder / "model.json"
    tree = json.loads(path.read_text())
    tree["encoder"]["init_args"]["dim"] = 32
    path.write_text(json.dumps(tree))


def run_code(folder):
    path = folder / "model.json"
    tree = json.loads(path.read_text())
    tree["encoder"] = {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage_weights, "model.safetensors is damaged"),
        (damage_description, "model.json is damaged"),
        (mismatch, "belongs to another model"),
        (run_code, "a model may not run code"),
    ],
)
def test_a_damaged_model_gives_one_clear_line(tmp_path, harm, message):
    save_model(tiny_model(), tmp_path, {})
    harm(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_custom_classes_of_a_model_run_only_when_allowed(tmp_path, monkeypatch):
    (tmp_path / "payload.py").write_text(
        "import pathlib\n"
        "from asr.encoders import LSTM\n"
        "pathlib.Path('ran').touch()\n"
        "class Own(LSTM): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    save_model(tiny_model(), tmp_path, {})
    tree = json.loads((tmp_path / "model.json").read_text())
    tree["encoder"]["class_path"] = "payload.Own"
    (tmp_path / "model.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="--allow-code"):
        load_model(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert type(load_model(tmp_path, allow_code=True).encoder).__name__ == "Own"
    assert (tmp_path / "ran").exists()


def test_a_relative_corpus_path_is_resolved_from_the_run_or_the_current_folder(
    tmp_path, monkeypatch, caplog
):
    model = SimpleNamespace(summary={"recipe": {"data": {"corpus": "data/own"}}})
    project, elsewhere, run = (
        tmp_path / "project",
        tmp_path / "elsewhere",
        tmp_path / "moved" / "run",
    )
    for folder in (project / "data" / "own", elsewhere, run / "best"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    for facts in ({}, {"working_directory": str(tmp_path / "gone")}):  # of old runs, moved ones
        (run / "environment.json").write_text(json.dumps(facts))
        with pytest.raises(
            ValueError, match="was trained on data/own, which is not here; give --c"
        ):
            corpus_of(model, str(run))
    (run / "environment.json").write_text(json.dumps({"working_directory": str(project)}))
    for name in (run, run / "best", "../moved/run"):
        assert corpus_of(model, str(name)) == str(project / "data" / "own")
    assert caplog.messages == []
    (elsewhere / "data" / "own").mkdir(parents=True)  # of another project
    assert corpus_of(model, str(run)) == str(project / "data" / "own")
    assert caplog.messages == [
        f"{run}: its corpus is {project}/data/own; --corpus data/own takes the one here"
    ]
    caplog.clear()
    (project / "data" / "own").rmdir()
    assert corpus_of(model, str(run)) == "data/own"
    (run / "environment.json").write_text(json.dumps({"working_directory": str(elsewhere)}))
    assert corpus_of(model, str(run)) == "data/own"
    assert caplog.messages == []


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such model or run folder"):
        find_model(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no model"):
        find_model(tmp_path)
