"""A model of any format, or of a run, with its parameters: attach to it, and let it answer."""

import dataclasses
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from promot_jax.base import partitioning, trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.checkpoints import chat_templates, pretrained
from promot_jax.checkpoints.formats import delta, known, side_files
from promot_jax.data import batching, chat_template, context, tasks
from promot_jax.data.chat import Chat
from promot_jax.data.chat_template import ChatTemplate
from promot_jax.data.vocabularies import Vocabulary
from promot_jax.experiment.evaluation import Evaluator
from promot_jax.experiment.experiment import Experiment
from promot_jax.models import Model, decoding
from promot_jax.models.attached import BARE, Attached
from promot_jax.models.networks.lora import Adapters
from promot_jax.training.stages import Method

# What the arguments of a search may be.
SEARCH = {
    "beams": values.Count,
    "temperature": values.Positive,
    "top_k": values.Whole,
    "top_p": values.Probability,
    "seed": values.Seed,
}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model and its parameters; methods return a changed one and leave this as it is.

    Attributes:
      model: bare model.
      params: its parameters, soft prompts and adapters included.
      prompts: names of the soft prompts that can be attached.
      trained: adapters that a run trained, None for none.
      attached: what answers are given with.
      decoder: search of `generate` where its arguments ask for none.
      buckets: lengths that a batch may be padded to.
      template: how it writes conversations down; None is as its checkpoint says.
      checkpoint: what it was read from, or what its training started from.
    """

    model: Model = dataclasses.field(repr=False)
    params: Tree = dataclasses.field(repr=False)
    prompts: tuple[str, ...] = ()
    trained: Adapters | None = None
    attached: Attached = BARE
    decoder: decoding.Decoder = dataclasses.field(default_factory=decoding.Greedy)
    buckets: Sequence[batching.Bucket] = dataclasses.field(default=(), repr=False)
    template: ChatTemplate | None = dataclasses.field(default=None, repr=False)
    checkpoint: str | None = dataclasses.field(default=None, repr=False)
    # Of each decoder; they keep what was compiled.
    _evaluators: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def attach(self, path: str | pathlib.Path, name: str | None = None) -> "LoadedModel":
        """Returns the model with a soft prompt (`.npy` or PEFT folder), a LoRA or a delta.

        A soft prompt is attached at once; `with_prompt` takes it off and on again.

        Args:
          path: of the adapter; an `hf://` address is downloaded.
          name: of a soft prompt; by default that of its file or folder.

        Raises:
          UserError: an adapter of another model, or a name that is taken.
        """
        path = str(path)
        if delta.is_format(path):
            return self.with_deltas([path])
        name = pathlib.Path(path).stem if name is None else name
        model, params = pretrained.attach(self.model, self.params, name, path)
        added = trees.prompts_of(params).keys() - trees.prompts_of(self.params).keys()
        prompts = (*self.prompts, *added)
        changed = dataclasses.replace(
            self, model=model, params=params, prompts=prompts, _evaluators={}
        )
        return changed.with_prompt(name) if added else changed

    def with_deltas(
        self, paths: Sequence[str | pathlib.Path], by: str = delta.SUM
    ) -> "LoadedModel":
        """Returns the model with deltas of it, which `promot export --format delta` writes.

        Args:
          paths: their folders.
          by: what they become together: `sum`, `mean`, `ties` or `ties:DENSITY`.

        Raises:
          UserError: a delta of another model, or a damaged one; no such `by`.
        """
        params = pretrained.with_deltas(self.model, self.params, list(map(str, paths)), by)
        return dataclasses.replace(self, params=params, _evaluators={})

    def with_prompt(self, name: str | None) -> "LoadedModel":
        """Returns the model with one of its soft prompts attached, or with none for None.

        Raises:
          UserError: it has no prompt of this name.
        """
        if name is not None and name not in self.prompts:
            known = ", ".join([*sorted(self.prompts), "none"])
            raise UserError(f"--prompt {name}: this model has none such; use {known}")
        attached = dataclasses.replace(self.attached, prompt=name)
        return dataclasses.replace(self, attached=attached)

    def with_lora(self) -> "LoadedModel":
        """Returns the model with the adapters that its run trained.

        Adapters that came with the model itself, or by `attach`, are always in force.

        Raises:
          UserError: the run trained none.
        """
        if self.trained is None:
            raise UserError("--lora: this model has no adapters of a run; leave it out")
        attached = dataclasses.replace(self.attached, adapters=self.trained)
        return dataclasses.replace(self, attached=attached)

    def generate(
        self, texts: str | Sequence[str], max_tokens: int = 32, **search: Any
    ) -> list[str]:
        """Returns the model's answer to each text.

        Warns of texts that are longer than the model was made for.

        Args:
          texts: what to answer; one text is a list of one.
          max_tokens: longest answer, in tokens.
          **search: `beams`, or `temperature`, `top_k`, `top_p` and `seed` to sample, see `search`.
            Without them it is what the run was evaluated with, else greedy.

        Raises:
          UserError: a value that is out of range, or a text that is not UTF-8.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        _check("max_tokens", max_tokens, values.Count)
        if wrong := next((text for text in texts if not isinstance(text, str)), None):
            raise UserError(f"{wrong!r} is no text; give a list of texts")
        values.check_utf8(texts)
        for warning in self.too_long(texts, max_tokens):
            warnings.warn(warning, stacklevel=2)
        return self.answer(texts, max_tokens, self.search(**search))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int = 256,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **search: Any,
    ) -> str:
        """Returns the model's answer to a conversation, by its chat template.

        Args:
          messages: each with `role` and `content`, the last one of the user.
          max_tokens: longest answer, in tokens.
          tools: JSON schemas of functions that it may call.
          **search: as in `generate`.

        Raises:
          UserError: as `generate`, or a conversation that the template refuses.
        """
        model = self.for_chat()
        (answer,) = model.generate(model.asked(messages, tools), max_tokens, **search)
        return answer.removeprefix(model.template.leading)

    def for_chat(self, template: str | None = None) -> "LoadedModel":
        """Returns the model with its chat template; its answers end where that ends them.

        Args:
          template: a file with another one, in Jinja.

        Raises:
          UserError: there is none.
        """
        found, model = self.template, self.model
        if template is not None or (found is None and self.checkpoint is not None):
            source = known.open_checkpoint(self.checkpoint) if self.checkpoint else None
            found = chat_templates.of_source(source, model.vocabulary, template)
        if found is None:
            raise UserError(chat_templates.NO_TEMPLATE.format(self.checkpoint or "the model"))
        ends = [*model.vocabulary.encode(found.ending)] if found.ending else []
        if len(ends) == 1 and ends[0] not in model.ends:
            model = dataclasses.replace(model, end_ids=(*model.end_ids, *ends))
        return dataclasses.replace(self, model=model, template=found, _evaluators={})

    def asked(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Returns a conversation as a model `for_chat` reads it, up to where its answer begins."""
        return self.template.render(messages, tools, prompt=True)

    def search(
        self,
        beams: int | None = None,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> decoding.Decoder:
        """Returns the search that is asked for, else the model's usual one.

        Args:
          beams: width of a beam search; 1 is greedy.
          temperature: of sampling; 1 where only one of the next two is given.
          top_k: sample from so many of the most probable tokens; 0 is all.
          top_p: sample from the most probable tokens that together have this probability.
          seed: of sampling; equal seeds give equal answers.

        Raises:
          UserError: a value that is out of range, or beams and sampling together.
        """
        given = {"beams": beams, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        for name, value in {**given, "seed": seed}.items():
            if value is not None:
                _check(name, value, SEARCH[name])
        if temperature is not None or top_k or top_p != 1:
            if beams is not None:
                raise UserError("--beams searches and --temperature samples; give one of them")
            temperature = 1.0 if temperature is None else temperature
            return decoding.Sample(temperature, top_k, top_p, seed)
        return self.decoder if beams is None else decoding.Beam(beams)

    def too_long(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Returns a sentence if some texts are longer than the model was made for, else nothing."""
        rows = [len(self.model.input_ids(text)) + max_tokens for text in texts]
        prompt = self.attached.prompt
        length = 0 if prompt is None else trees.prompts_of(self.params)[prompt]
        return context.warnings(self.model.max_positions, rows, length)

    def answer(self, texts: Sequence[str], max_tokens: int, decoder: decoding.Decoder) -> list[str]:
        """Returns the answer of at most `max_tokens` tokens to each text, by a given search."""
        if not texts:
            return []
        if decoder not in self._evaluators:
            mesh = partitioning.make_mesh()
            self._evaluators[decoder] = Evaluator(self.model, mesh, decoder, 1, self.buckets)
        return self._evaluators[decoder].answer(self.params, texts, max_tokens, self.attached)


def of_checkpoint(path: str, vocabulary: str | None = None) -> LoadedModel:
    """Loads a checkpoint of any format.

    Args:
      path: the checkpoint.
      vocabulary: a SentencePiece model or a `tokenizer.json`, where it has none.

    Raises:
      UserError: no checkpoint, one without a vocabulary, or a damaged one.
    """
    model, source = pretrained.open_model(path, vocabulary)
    if model.vocabulary is None:
        raise UserError(f"{path} has no vocabulary; give one by --vocabulary")
    params = pretrained.load(source, model, partitioning.make_mesh())
    prompts = tuple(filter(None, model.network.config.prompt_names))
    return LoadedModel(model, params, prompts, checkpoint=path)


def of_run(runner, method: Method, seed: int, at: float | None = None) -> LoadedModel:
    """Loads what a method of a finished run made, or a point of its curve, by the run's `Runner`.

    Raises:
      UserError: as `Runner.trained`.
    """
    trained, experiment = runner.trained(method, seed, at), runner.experiment
    chat = chat_of(experiment)
    return LoadedModel(
        experiment.model,
        trained.params,
        trained.prompts,
        trained.adapters,
        decoder=experiment.decoder or decoding.Greedy(),
        buckets=experiment.eval_buckets,
        # Who talks to it now is told today's date.
        template=chat and dataclasses.replace(chat.template, day=None),
        checkpoint=experiment.initial_checkpoint,
    )


def chat_of(experiment: Experiment) -> Chat | None:
    """Returns how the conversations that an experiment tunes on are written, None without any."""
    encoders = [getattr(tasks.get(task.name), "encode", None) for task in experiment.targets]
    return next((encode for encode in encoders if isinstance(encode, Chat)), None)


def with_template(
    beside: Mapping[str, bytes], chat: Chat, vocabulary: Vocabulary, where: str
) -> dict[str, bytes]:
    """Returns the files beside a model that was tuned on chat.

    They have its template, where they had none, and what ends an answer by it ends one.
    """
    found = dict(beside)
    if chat_template.read(beside, where) is None:
        found[chat_template.FILE] = chat.template.texts["default"].encode()
    end = vocabulary.encode(chat.template.ending)
    return side_files.with_end(found, end[0], where) if len(end) == 1 else found


def beside_tuned(
    beside: Mapping[str, bytes], experiment: Experiment, where: str
) -> dict[str, bytes]:
    """Returns the files beside a start as they are beside what an experiment made of it.

    Args:
      beside: those of the start.
      experiment: whose model has a vocabulary.
      where: the start's path, for errors.
    """
    vocabulary = experiment.model.vocabulary
    found = side_files.with_end(beside, vocabulary.eos_id, where)
    chat = chat_of(experiment)
    return found if chat is None else with_template(found, chat, vocabulary, where)


def _check(name: str, value: Any, hint: Any) -> None:
    if wrong := values.fault(value, hint):
        raise UserError(f"{name} = {value!r}: expected {wrong.allowed}")
