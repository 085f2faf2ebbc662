import itertools
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from messages import raises_naming
from safetensors.torch import load_file, save_file

from t2m_bench.errors import WeightsError
from t2m_bench.models.pretrain.stand_in_text import FRAMES, PHRASES, count_nearest_in_class, list_sentences, load_books
from t2m_bench.models.text import compute_text_sha256, load_text_encoder
from t2m_bench.models.torchvision_ops import declare_missing_operators

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "benign", "finding", "suspicious", ".", "2", "3"]


class Planted:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, (self.trace,))


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    """A folder as PubMedBERT's, of its shape, with two layers and a small vocabulary."""
    declare_missing_operators()
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), num_hidden_layers=2, hidden_size=768, num_attention_heads=12)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_bert_folder_gives_what_transformers_gives_one_by_one(bert_folder: Path, pooling: str) -> None:
    from transformers import AutoTokenizer, BertModel

    sentences = ["a benign finding.", "suspicious", "2 3 a benign benign benign finding"]
    text = load_text_encoder(str(bert_folder), pooling)
    assert text.width == 768
    got = text.encode(sentences)
    tokenizer, model = AutoTokenizer.from_pretrained(bert_folder), BertModel.from_pretrained(bert_folder).eval()
    for row, sentence in zip(got, sentences, strict=True):  # alone, so without any padding
        hidden = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
        want = hidden[0] if pooling == "cls" else hidden.mean(dim=0)
        torch.testing.assert_close(row, want, atol=2e-6, rtol=1e-5)


def test_a_sentence_too_long_is_refused_not_cut(bert_folder: Path) -> None:
    with raises_naming(WeightsError, bert_folder, 512, 602, "benign"):
        load_text_encoder(str(bert_folder), "cls").encode(["benign " * 600])


def test_planted_weights_do_not_run(bert_folder: Path, tmp_path: Path) -> None:
    (bert_folder / "model.safetensors").unlink()
    (bert_folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Planted(tmp_path / "trace")}))
    with raises_naming(WeightsError, bert_folder):
        load_text_encoder(str(bert_folder), "cls")
    assert not (tmp_path / "trace").exists()


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(edit(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})


def without(part: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {key: value for key, value in tensors.items() if part not in key}


LACKING = {
    "a layer is not there": (without("layer.1."), {16, "encoder.layer.1.attention.output.LayerNorm.bias"}),
    "a foreign prefix": (
        lambda tensors: {f"x.{key}": value for key, value in tensors.items()},
        {37, "embeddings.LayerNorm.bias"},
    ),
    "another shape": (
        lambda tensors: {key: value[:, :512].clone() if "word" in key else value for key, value in tensors.items()},
        {"Fetch"},  # by transformers or by our own check, as the version has it
    ),
}


@pytest.mark.parametrize("name", LACKING)
def test_weights_that_do_not_fit_are_refused_not_filled_with_random_numbers(bert_folder: Path, name: str) -> None:
    edit, named = LACKING[name]
    edit_weights(bert_folder, edit)
    with raises_naming(WeightsError, bert_folder, *named):
        load_text_encoder(str(bert_folder), "cls")


def test_weights_of_a_whole_language_model_without_pooling_head_are_read(bert_folder: Path) -> None:
    before = load_text_encoder(str(bert_folder), "cls").encode(["a benign finding"])
    edit_weights(bert_folder, without("pooler."))
    edit_weights(bert_folder, lambda tensors: {f"bert.{key}": value for key, value in tensors.items()})
    assert torch.equal(load_text_encoder(str(bert_folder), "cls").encode(["a benign finding"]), before)


def plant(path: Path, trace: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Planted(trace)}))


DAMAGE = {
    "weights cut": ("model.safetensors", lambda path, trace: path.write_bytes(path.read_bytes()[:5000])),
    "weights cut in the header": ("model.safetensors", lambda path, trace: path.write_bytes(path.read_bytes()[:100])),
    "weights empty": ("model.safetensors", lambda path, trace: path.write_bytes(b"")),
    "weights a pickle": ("model.safetensors", plant),
    "config a list": ("config.json", lambda path, trace: path.write_text("[1, 2]")),
    "config empty": ("config.json", lambda path, trace: path.write_text("")),
    "config a pickle": ("config.json", plant),
    "tokenizer a pickle": ("tokenizer.json", plant),
    "tokenizer settings a list": ("tokenizer_config.json", lambda path, trace: path.write_text("[1, 2]")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_one_message(bert_folder: Path, tmp_path: Path, name: str) -> None:
    file, damage = DAMAGE[name]
    assert (bert_folder / file).is_file()
    damage(bert_folder / file, tmp_path / "trace")
    with raises_naming(WeightsError, bert_folder, "Fetch") as caught:
        load_text_encoder(str(bert_folder), "cls")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


def test_weights_saved_by_torch_alone_are_read(bert_folder: Path) -> None:
    before = load_text_encoder(str(bert_folder), "cls")
    torch.save(before.model.state_dict(), bert_folder / "pytorch_model.bin")
    (bert_folder / "model.safetensors").unlink()
    after = load_text_encoder(str(bert_folder), "cls")
    assert torch.equal(before.encode(["benign"]), after.encode(["benign"]))


def test_the_hash_tells_weights_apart(bert_folder: Path) -> None:
    first = compute_text_sha256(str(bert_folder))
    raw = bytearray((bert_folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (bert_folder / "model.safetensors").write_bytes(raw)
    assert compute_text_sha256(str(bert_folder)) != first


def test_what_is_not_cached_offline_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    published = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    with raises_naming(WeightsError, published, "cached", "text_encoder.name"):
        load_text_encoder(published, "cls")
    with raises_naming(WeightsError, "text_encoder.name", "not//a name", "folder", "hub"):
        load_text_encoder("not//a name", "cls")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_stand_in_puts_held_out_sentences_with_their_class(pooling: str) -> None:
    text = load_text_encoder("stand-in", pooling)
    assert text.width == 768
    counts = {}
    for book in load_books():
        for field, count in count_nearest_in_class(text, [book]).items():
            hits, _, total = count.split()
            counts[field] = int(hits) / int(total)
    assert counts["birads"] == 1, "the demo reads these"
    assert counts["t_stage"] >= 0.8, "sizes in other units are new to it"
    assert counts["histology"] >= 0.7, "so are words such as epidermoid"


def test_the_stand_in_was_not_trained_on_held_out_sentences() -> None:
    apart = {sentence.lower().strip(" .") for _, sentence in list_sentences(load_books(), "held_out")}
    for (field, value), phrases in PHRASES.items():
        codes = ("", f" BI-RADS {value}" if field == "birads" else f" {value}")
        for phrase, frame, code in itertools.product(phrases, FRAMES[field], codes):
            assert frame.format(phrase=phrase, code=code).lower().strip(" .") not in apart
