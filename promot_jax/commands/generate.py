"""`promot generate`: answers of a model."""

import sys

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.commands import flags, models


def add(commands) -> None:
    """Adds the command and its flags."""
    generate = flags.command(
        commands,
        "generate",
        _generate,
        "Answer texts with a model of a finished run, or of a checkpoint.",
        "examples:\n"
        '  promot generate runs/mini --prompt none "Q: what is the capital of mali? A:"\n'
        '  promot generate --checkpoint SmolLM2-135M.gguf "The capital of France is"',
    )
    generate.add_argument("words", nargs="+", metavar="[RUN] TEXT", help="texts to answer, quoted")
    generate.add_argument(
        "--checkpoint", type=flags.path, help="instead of a run: " + flags.ANY_CHECKPOINT
    )
    generate.add_argument("--vocabulary", type=flags.path, help=flags.VOCABULARY)
    flags.adapters(generate)
    generate.add_argument(
        "--prompt", default="none", help="name of the soft prompt to attach, or none"
    )
    generate.add_argument(
        "--lora", action="store_true", help="attach the low-rank adapters that the run trained"
    )
    flags.which_model(generate)
    generate.add_argument(
        "--max_length",
        type=flags.number(int, values.Count),
        default=32,
        help="longest answer, in tokens",
    )
    generate.add_argument(
        "--beams", type=flags.number(int, values.Count), help="beam search; 1 is greedy"
    )
    generate.add_argument(
        "--temperature",
        type=flags.number(float, values.Positive),
        help="sample; with --top_k, --top_p",
    )
    generate.add_argument(
        "--top_k",
        type=flags.number(int, values.Whole),
        default=0,
        help="sample from the K most probable",
    )
    generate.add_argument(
        "--top_p",
        type=flags.number(float, values.Probability),
        default=1.0,
        help="sample from this probability",
    )


def _generate(arguments, overrides) -> None:
    flags.no_overrides(overrides)
    _check_generate(arguments)
    if arguments.checkpoint is None:
        flags.refuse(arguments, ("vocabulary", "adapter"), "goes with --checkpoint, not with a run")
        run, *texts = arguments.words
        if not texts:
            raise UserError(f"give the folder of a run and a text, not only {run!r}")
        runner, method, seed = models.open_run(flags.folder(run), arguments)
        trained = runner.trained(method, seed)
        params, names, adapters = trained.params, trained.prompts, trained.adapters
        model, decoder = runner.experiment.model, runner.experiment.decoder
        buckets = runner.experiment.eval_buckets
        if arguments.lora and adapters is None:
            raise UserError(f"--lora: method {method.name!r} trains no adapters; leave it out")
    else:
        flags.refuse(arguments, ("method", "lora"), "goes with a run, not with --checkpoint")
        texts = arguments.words
        model, params = models.open_checkpoint(arguments)
        decoder, buckets, names, adapters = None, (), model.network.config.prompt_names, None
    prompt = None if arguments.prompt == "none" else arguments.prompt
    if prompt is not None and prompt not in names:
        known = ", ".join([*sorted(set(filter(None, names))), "none"])
        raise UserError(f"--prompt {prompt}: this model has none such; use {known}")
    from promot_jax.base import partitioning, trees
    from promot_jax.data import context
    from promot_jax.experiment.evaluation import Evaluator
    from promot_jax.models.attached import Attached

    rows = [len(model.input_ids(text)) + arguments.max_length for text in texts]
    prompt_length = trees.prompts_of(params)[prompt] if prompt is not None else 0
    for warning in context.warnings(model.max_positions, rows, prompt_length):
        print(f"warning: {warning}", file=sys.stderr)
    attached = Attached(prompt, adapters if arguments.lora else None)
    decoder = _decoder(arguments, decoder)
    evaluator = Evaluator(model, partitioning.make_mesh(), decoder, len(texts), buckets)
    print("\n".join(evaluator.answer(params, texts, arguments.max_length, attached)))


def _check_generate(arguments) -> None:
    """Raises UserError for what would fail only inside the network or the tokenizer."""
    for text in arguments.words:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{text!a} is not UTF-8; give the text in that encoding") from None


def _decoder(arguments, usual):
    """Returns the search that the flags ask for, else the usual one, else greedy search."""
    from promot_jax.models import decoding

    if arguments.temperature is not None or arguments.top_k or arguments.top_p != 1:
        if arguments.beams is not None:
            raise UserError("--beams searches and --temperature samples; give one of them")
        temperature = 1.0 if arguments.temperature is None else arguments.temperature
        return decoding.Sample(temperature, arguments.top_k, arguments.top_p, arguments.seed or 0)
    if arguments.beams is not None:
        return decoding.Beam(arguments.beams)
    return usual or decoding.Greedy()
