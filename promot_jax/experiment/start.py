"""The model that every method of a seed starts from, loaded or drawn."""

import jax

from promot_jax.base import partitioning, trees
from promot_jax.base.trees import Tree
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import known
from promot_jax.experiment import lineage
from promot_jax.experiment.experiment import Experiment


class Start:
    """The starting points of an experiment's seeds, one at a time on the devices."""

    def __init__(self, experiment: Experiment, mesh: jax.sharding.Mesh):
        self._experiment, self._mesh = experiment, mesh
        # The seed of what is held, None where all seeds have the same starting point.
        self.seed: int | None = None
        self._params: Tree = {}
        self._lineages: dict[int, str] = {}

    def params(self, seed: int) -> Tree:
        """Returns the parameters that every method of a seed starts from, placed on the mesh.

        The devices hold them once: a stage takes over the leaves that it trains, which are deleted
        here. Whoever asks after that has them loaded again.

        Raises:
          UserError: the checkpoint does not fit the model, or is damaged.
        """
        drawn = self._experiment.initial_checkpoint is None or self._experiment.may_miss
        whose = seed if drawn else None
        leaves = trees.flatten(self._params).values()
        if self.seed != whose or not leaves or any(leaf.is_deleted() for leaf in leaves):
            # What is left of the last one makes room first.
            del leaves
            self.seed, self._params = whose, {}
            self._params = self._draw(seed) if self._from_nothing else self._load(seed)
        return self._params

    def lineage(self, seed: int) -> str:
        """Returns the lineage of a seed's starting point."""
        if seed not in self._lineages:
            self._lineages[seed] = lineage.of_model(self._experiment.model, self.params(seed))
        return self._lineages[seed]

    def unchanged_in(self, params: Tree) -> bool:
        """Whether it is in the parameters, array for array; stages hand on what stays frozen."""
        leaves, held = trees.flatten(params), trees.flatten(self._params)
        return bool(held) and all(leaves[path] is leaf for path, leaf in held.items())

    def apart(self, seed: int, params: Tree) -> tuple[Tree, Tree]:
        """Returns the starting point, loaded again, and the parameters that stages made of it.

        Leaves that no stage trained are the same arrays in both. Of all others both trees have
        theirs in the memory of the host, so that the devices have room for a third: they are
        deleted in `params`, and whoever asks for the starting point later has it loaded again.
        """
        own, held = trees.flatten(params), trees.flatten(self._params)
        frozen = {path: leaf for path, leaf in held.items() if own.get(path) is leaf}
        for path in held.keys() - frozen.keys() & own.keys():
            own[path] = partitioning.to_host(own[path])
        fresh = trees.flatten(self.params(seed))
        moved = {path: partitioning.to_host(fresh[path]) for path in fresh.keys() - frozen.keys()}
        if moved:
            self._params = {}
        return trees.unflatten(frozen | moved), trees.unflatten(own)

    @property
    def _from_nothing(self) -> bool:
        return self._experiment.initial_checkpoint is None

    def _load(self, seed: int) -> Tree:
        experiment = self._experiment
        source = known.open_checkpoint(experiment.initial_checkpoint)
        # Prompts that come with it are there for stages that attach them.
        shapes = trees.unflatten(dict(source.leaves))
        return pretrained.load(
            source,
            experiment.model.with_prompts_of(shapes),
            self._mesh,
            may_miss=experiment.may_miss,
            may_skip=experiment.may_skip,
            seed=seed,
        )

    def _draw(self, seed: int) -> Tree:
        model = self._experiment.model
        shapes, axes = model.shapes_and_axes()
        shardings = partitioning.params_sharding(self._mesh, axes, shapes)

        def draw(rng: jax.Array) -> Tree:
            # Stacked or not, a layer begins with the same numbers.
            params = model.unstacked().init(rng)
            return trees.stack_layers(params) if model.stacked else params

        return jax.jit(draw, out_shardings=shardings)(jax.random.key(seed))
