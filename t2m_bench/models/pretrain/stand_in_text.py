"""Trains the offline stand-in for the text encoder: `python -m t2m_bench.models.pretrain.stand_in_text OUT`.

A one-layer BERT of PubMedBERT's width learns to put descriptions of one class together and of different classes apart.
It reads sentences made from the phrases below and the training sentences of the shipped prompts; held-out sentences
only measure it. It stands in for a language model where none can be downloaded, and is no model of clinical language.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from t2m_bench.data.prompts import UNKNOWN, PromptBook, Use, load_prompts
from t2m_bench.models.text import FrozenText, load_text_encoder
from t2m_bench.models.torchvision_ops import declare_missing_operators
from t2m_bench.recipe.datasets import DATA_SETS

WIDTH = 768
POSITIONS = 96

PHRASES: dict[tuple[str, str], tuple[str, ...]] = {
    ("birads", "2"): ("benign", "clearly benign", "a benign lesion", "no sign of cancer"),
    ("birads", "3"): ("probably benign", "likely benign", "of low suspicion", "hardly malignant"),
    ("birads", "4"): ("suspicious", "suspicious of malignancy", "of concern", "in need of biopsy"),
    ("birads", "5"): (
        "highly suggestive of malignancy",
        "very likely malignant",
        "almost certainly cancer",
        "cancer itself",
    ),
    ("birads", UNKNOWN): ("without assessment", "assessment missing", "not assessed", "without a category"),
    ("t_stage", "Tis"): ("in situ", "in-situ carcinoma", "without invasion", "a non-invasive carcinoma"),
    ("t_stage", "T1a"): ("2 cm or less", "of at most 2 cm", "below 2 cm", "no larger than 2 cm"),
    ("t_stage", "T1b"): ("over 2 to 3 cm", "larger than 2 cm, at most 3 cm", "2 to 3 cm", "3 cm or less"),
    ("t_stage", "T2a"): ("over 3 to 5 cm", "5 cm or less", "3 to 5 cm", "involving the main bronchus or the pleura"),
    ("t_stage", "T2b"): ("over 5 to 7 cm", "larger than 5 cm, at most 7 cm", "5 to 7 cm", "7 cm or less"),
    ("t_stage", "T3"): ("above 7 cm", "invading the chest wall", "with a nodule in the same lobe", "locally invasive"),
    ("t_stage", "T4"): (
        "invading the mediastinum",
        "with a nodule in a different lobe of that lung",
        "invading heart or great vessels",
        "unlimited by size",
    ),
    ("t_stage", UNKNOWN): ("T stage missing", "T stage not found", "T stage never noted", "stage not given"),
    ("histology", "Adenocarcinoma"): ("an adenocarcinoma", "glandular carcinoma", "a tumour of glands"),
    ("histology", "Squamous cell carcinoma"): ("a squamous cell carcinoma", "squamous carcinoma", "a squamous tumour"),
    ("histology", "NSCLC NOS"): (
        "NOS, a non-small-cell lung cancer",
        "non-small cell carcinoma not typed",
        "NSCLC, not otherwise specified",
        "NSCLC of no subtype",
    ),
    ("histology", UNKNOWN): (
        "histology missing",
        "histology not found",
        "histology never noted",
        "tumour type not given",
    ),
}

FRAMES = {
    "birads": (
        "Lesion {phrase}{code}.",
        "Sonography: {phrase}{code}.",
        "{code}: {phrase}.",
        "A finding {phrase}{code}",
    ),
    "t_stage": ("Tumour stage{code}, {phrase}.", "Pathology: {phrase}{code}.", "stage{code}: {phrase}", "{phrase}"),
    "histology": ("Type: {phrase}.", "Lung tumour, {phrase}.", "{phrase} on microscopy.", "Cells of {phrase}"),
}

Label = tuple[str, str]


@dataclass(frozen=True)
class Training:
    """Settings that determine the weights."""

    seed: int = 20_260_102
    vocabulary: int = 600
    steps: int = 200
    per_class: int = 6
    learning_rate: float = 3e-4
    temperature: float = 0.1
    word_dropout: float = 0.1


def load_books() -> list[PromptBook]:
    """Load the shipped prompt files."""
    return [load_prompts(entry.prompts, "category") for entry in DATA_SETS.own if entry.prompts]


def list_sentences(books: list[PromptBook], use: Use) -> list[tuple[Label, str]]:
    """Return (class, sentence) of all shipped sentences of a use."""
    return [
        ((field, value), sentence)
        for book in books
        for field in book.fields
        for value in (*book.classes(field), UNKNOWN)
        for sentence in book.sentences(field, value, use)
    ]


def make_sentence(label: Label, shipped: dict[Label, list[str]], training: Training, rng: np.random.Generator) -> str:
    """Draw a sentence of a class: a shipped one or a phrase in a frame, with words left out now and then."""
    field, value = label
    if rng.random() < 0.4:
        sentence = shipped[label][int(rng.integers(len(shipped[label])))]
    else:
        phrases, frames = PHRASES[label], FRAMES[field]
        code = "" if value == UNKNOWN or rng.random() < 0.3 else {"birads": f" BI-RADS {value}"}.get(field, f" {value}")
        frame = frames[int(rng.integers(len(frames)))]
        sentence = frame.format(phrase=phrases[int(rng.integers(len(phrases)))], code=code)
    words = sentence.split()
    kept = [word for word in words if rng.random() >= training.word_dropout]
    return " ".join(kept or words)


def build_tokenizer(folder: Path, shipped: list[tuple[Label, str]], training: Training) -> None:
    """Write a WordPiece tokenizer fitted to the phrases and training sentences."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words = [*(sentence for _, sentence in shipped), *(phrase for phrases in PHRASES.values() for phrase in phrases)]
    words += [frame for frames in FRAMES.values() for frame in frames]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    alphabet = list("abcdefghijklmnopqrstuvwxyz0123456789")
    tokenizer.train_from_iterator(
        words,
        trainers.WordPieceTrainer(vocab_size=training.vocabulary, special_tokens=special, initial_alphabet=alphabet),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=POSITIONS,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)


def build_model(vocabulary: int) -> Any:
    """Build a one-layer BERT of width 768 with random weights."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=12,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
    )
    return BertModel(config, add_pooling_layer=False)


def compute_loss(embeddings: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss (Khosla et al., 2020) of (n, E) embeddings with classes (n,)."""
    unit = functional.normalize(embeddings, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool)
    logits = (unit @ unit.T / temperature).masked_fill(itself, -1e9)
    positive = (classes[:, None] == classes[None, :]) & ~itself
    return -(logits.log_softmax(dim=1) * positive).sum(dim=1).div(positive.sum(dim=1)).mean()


def train(model: Any, tokenizer: Any, shipped: list[tuple[Label, str]], training: Training) -> None:
    """Train with both poolings, so that either serves."""
    rng = np.random.default_rng(training.seed)
    by_label: dict[Label, list[str]] = {label: [] for label in PHRASES}
    for label, sentence in shipped:
        by_label[label].append(sentence)
    classes = torch.arange(len(PHRASES)).repeat_interleave(training.per_class)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    model.train()
    for step in range(training.steps):
        sentences = [
            make_sentence(label, by_label, training, rng) for label in PHRASES for _ in range(training.per_class)
        ]
        tokens = tokenizer(sentences, padding=True, return_tensors="pt")
        hidden = model(**tokens).last_hidden_state
        real = tokens["attention_mask"].unsqueeze(-1)
        mean = (hidden * real).sum(dim=1) / real.sum(dim=1)
        loss = sum(compute_loss(pooled, classes, training.temperature) for pooled in (hidden[:, 0], mean))
        optimizer.param_groups[0]["lr"] = training.learning_rate * 0.5 * (1 + math.cos(math.pi * step / training.steps))
        optimizer.zero_grad(set_to_none=True)
        torch.as_tensor(loss).backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} of {training.steps}: loss {float(loss):.4f}", flush=True)


def count_nearest_in_class(text: FrozenText, books: list[PromptBook]) -> dict[str, str]:
    """Return per field how many held-out sentences lie nearest to a training sentence of their class, as "5 of 5"."""
    counts = {}
    for book in books:
        for field in book.fields:
            known = [pair for pair in list_sentences([book], "training") if pair[0][0] == field]
            apart = [pair for pair in list_sentences([book], "held_out") if pair[0][0] == field]
            unit = [functional.normalize(text.encode([s for _, s in pairs]), dim=1) for pairs in (known, apart)]
            nearest = (unit[1] @ unit[0].T).argmax(dim=1).tolist()
            hits = sum(known[place][0] == label for place, (label, _) in zip(nearest, apart, strict=True))
            counts[field] = f"{hits} of {len(apart)}"
    return counts


def main() -> None:
    """Write the stand-in's folder in Hugging Face's layout, with a record of how it was trained and measured."""
    parser = argparse.ArgumentParser(description="Train the offline stand-in for the text encoder.")
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    declare_missing_operators()
    from transformers import AutoTokenizer

    start, training, books = time.monotonic(), Training(), load_books()
    torch.manual_seed(training.seed)
    shipped = list_sentences(books, "training")
    build_tokenizer(out, shipped, training)
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = build_model(len(tokenizer))
    train(model, tokenizer, shipped, training)
    model.half().save_pretrained(out)
    figures = {
        pooling: count_nearest_in_class(load_text_encoder(str(out), pooling), books) for pooling in ("cls", "mean")
    }
    record = {
        "recipe": asdict(training),
        "held_out_sentences_nearest_to_their_class": figures,
        "seconds": round(time.monotonic() - start),
    }
    text = json.dumps(record, indent=1)
    (out / "training.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
