"""Hugging Face's Trainer: a small GPT learns the letters of a text, and goes on from the last checkpoint in `runs/`."""

import argparse
import os
import textwrap

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

try:  # with pixel-orch a notice saves once more; without it the training is the same
    from orchestrator.callbacks import hugging_face

    CALLBACKS = [hugging_face()]
except ImportError:
    CALLBACKS = []
OUT = "runs"
LENGTH = 64


class Letters(torch.utils.data.Dataset):
    """Pieces of a text, as the bytes that they are."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            self.text = torch.tensor(list(file.read()))

    def __len__(self) -> int:
        return len(self.text) // LENGTH

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        piece = self.text[index * LENGTH : (index + 1) * LENGTH]
        return {"input_ids": piece, "labels": piece}


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--text", default=textwrap.__file__, help="a file (default: the source of a module of Python)")
    parser.add_argument("--width", type=int, default=64)
    args = parser.parse_args()
    set_seed(0)

    config = GPT2Config(
        vocab_size=256, n_positions=LENGTH, n_embd=args.width, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=TrainingArguments(
            output_dir=OUT,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            save_strategy="epoch",
            save_total_limit=2,
            logging_strategy="epoch",
            report_to=[],
            seed=0,
        ),
        train_dataset=Letters(args.text),
        callbacks=CALLBACKS,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(OUT) if os.path.isdir(OUT) else None)
    trainer.save_model("model")


if __name__ == "__main__":
    main()
