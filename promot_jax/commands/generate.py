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
        '  promot generate --checkpoint SmolLM2-135M.gguf "The capital of France is"\n'
        '  promot generate --checkpoint SmolLM2-135M-Instruct --chat "What is a noun?"',
    )
    generate.add_argument("words", nargs="+", metavar="[RUN] TEXT", help="texts to answer, quoted")
    generate.add_argument(
        "--checkpoint", type=flags.path, help="instead of a run: " + flags.ANY_CHECKPOINT
    )
    generate.add_argument(
        "--chat",
        action="store_true",
        help="each text is what a user says; the model's chat template makes it a conversation",
    )
    generate.add_argument("--system", metavar="TEXT", help="with --chat: what stands before it")
    generate.add_argument(
        "--chat_template",
        type=flags.path,
        metavar="FILE",
        help="with --chat: a template in Jinja, where the model has none",
    )
    generate.add_argument("--vocabulary", type=flags.path, help=flags.VOCABULARY)
    flags.adapters(generate)
    generate.add_argument(
        "--prompt", default="none", help="name of the soft prompt to attach, or none"
    )
    generate.add_argument(
        "--lora", action="store_true", help="attach the adapters that the run trained"
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
    values.check_utf8([*arguments.words, arguments.system or ""])
    if arguments.checkpoint is None:
        flags.refuse(
            arguments,
            ("vocabulary", "adapter", "merge_deltas"),
            "goes with --checkpoint, not with a run",
        )
        run, *texts = arguments.words
        if not texts:
            raise UserError(f"give the folder of a run and a text, not only {run!r}")
        model = _of_run(run, arguments)
    else:
        flags.refuse(arguments, ("method", "at", "lora"), "goes with a run, not with --checkpoint")
        texts = arguments.words
        model = models.with_adapters(arguments.checkpoint, arguments)
    model = model.with_prompt(None if arguments.prompt == "none" else arguments.prompt)
    if arguments.chat:
        model = model.for_chat(arguments.chat_template)
        texts = [model.asked(_conversation(text, arguments.system)) for text in texts]
    else:
        flags.refuse(arguments, ("system", "chat_template"), "goes with --chat")
    for warning in model.too_long(texts, arguments.max_length):
        print(f"warning: {warning}", file=sys.stderr)
    search = ("beams", "temperature", "top_k", "top_p")
    decoder = model.search(
        **{name: getattr(arguments, name) for name in search}, seed=arguments.seed or 0
    )
    answers = model.answer(texts, arguments.max_length, decoder)
    if arguments.chat:
        answers = [answer.removeprefix(model.template.leading) for answer in answers]
    print("\n".join(answers))


def _conversation(text: str, system: str | None) -> list[dict[str, str]]:
    asked = [{"role": "user", "content": text}]
    return asked if system is None else [{"role": "system", "content": system}, *asked]


def _of_run(run: str, arguments):
    """Returns the model of a run that the flags choose."""
    runner, method, seed = models.open_run(flags.folder(run), arguments.method, arguments.seed)
    from promot_jax.base import partitioning
    from promot_jax.experiment import loaded

    partitioning.keep_compiled()
    if arguments.lora and method.adapters is None:
        raise UserError(f"--lora: method {method.name!r} trains no adapters; leave it out")
    if arguments.at is not None and method.unseen.adapters and not arguments.lora:
        raise UserError(f"--at: the curve of method {method.name!r} is its adapters'; add --lora")
    model = loaded.of_run(runner, method, seed, arguments.at)
    return model.with_lora() if arguments.lora else model
