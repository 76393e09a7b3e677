"""`salm convert`: LAION-CLAP and PSELDNets weights -> a SALM checkpoint folder that training starts from."""

from pathlib import Path
from typing import Annotated

import typer

from salm.cli import console


def convert(
    clap: Annotated[
        str, typer.Option("--clap", help="LAION-CLAP .pt file, or a ClapModel folder or Hugging Face repository.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint folder to write.")],
    pseldnets: Annotated[
        Path | None, typer.Option("--pseldnets", help="EINV2-HTSAT .ckpt; without it the spatial branch is CLAP's too.")
    ] = None,
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", help="RoBERTa tokenizer: Hugging Face repository or folder.")
    ] = "roberta-base",
    name: Annotated[str, typer.Option("--name", help="Name of the model in its configuration.")] = "salm-base",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the weights that no checkpoint gives.")] = 0,
    as_json: console.AsJson = False,
) -> None:
    """Start a SALM model from the paper's initial weights, in the sizes of the given checkpoints.

    Text tower and semantic branch come from LAION-CLAP, the spatial branch from PSELDNets.
    """
    import torch
    from transformers.utils import logging

    from salm.errors import CheckpointError
    from salm.text.tokenizer import Tokenizer
    from salm.weights.checkpoint import load_checkpoint, save_checkpoint
    from salm.weights.convert import read_clap, read_pseldnets
    from salm.weights.initialise import initial_model

    logging.disable_progress_bar()
    towers, clap_report = read_clap(clap)
    encoder, pseldnets_report = (None, None) if pseldnets is None else read_pseldnets(pseldnets)
    torch.manual_seed(seed)
    model, config, taken = initial_model(towers, encoder, name=name)
    words = Tokenizer.from_roberta(tokenizer, config.text.max_tokens)
    if words.vocabulary_size > config.text.vocabulary_size:
        raise CheckpointError(
            f"{tokenizer}: {words.vocabulary_size} tokens, but the text tower of {clap} knows "
            f"{config.text.vocabulary_size}; pass the tokenizer that it was trained with"
        )
    save_checkpoint(out, model, config, words, dtype=torch.float32)
    reports = [str(report) for report in (clap_report, pseldnets_report) if report is not None]
    if as_json:
        console.print_json(
            {"folder": str(out), "model": load_checkpoint(out).model_id, "sources": reports, "weights": taken}
        )
    else:
        typer.echo("\n".join([*reports, f"{out}: {taken}"]))
