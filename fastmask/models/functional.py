"""Models: graphs of layers with any number of inputs and outputs, themselves layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import ArrayLike

from fastmask.batch.data import Batch, as_batch
from fastmask.batch.packing import PackedSequence
from fastmask.core.stored import stored_property
from fastmask.core.structure import flatten, map_structure, pack_as
from fastmask.graph.order import from_intermediate
from fastmask.graph.prepared import Prepared
from fastmask.graph.run import Entry, Plans, Run
from fastmask.layers import Layer
from fastmask.layers.base.arguments import auto_name
from fastmask.layers.base.serialization import layer_configs
from fastmask.layers.base.symbolic import is_symbolic
from fastmask.layers.logic import MaskOperation
from fastmask.models import configs
from fastmask.models.graph_layer import GraphLayer, symbolic_tensors
from fastmask.models.summary import table
from fastmask.training.loop import GradientOf
from fastmask.training.options import require_own_steps
from fastmask.training.scores import Scores
from fastmask.training.trainer import Trainer


class Model(GraphLayer, Trainer):
    """A graph of layers.

    Parameters
    ----------
    inputs : KerasTensor, or list or dict of them
        From `Input`, or results of layers: then the model is the part of the graph above them.
    outputs : KerasTensor, or list or dict of them
    name : str, optional
        Made from the class name when left out.
    trainable : bool, default True

    Attributes
    ----------
    layers : list of Layer
        Ordered as in Keras; those of the inputs are among them, operations on masks are not.
    inputs, outputs : list of KerasTensor
    input_names, output_names : list of str
        The keys of data given as dicts.
    optimizer, loss, history, stop_training
        See `compile` and `fit`.

    Raises
    ------
    TypeError
        If `inputs` or `outputs` hold something else.
    NotImplementedError
        If a subclass defines `call`.
    ValueError
        If an output does not depend on the inputs alone, or two layers have one name.
    """

    keras_class: ClassVar[tuple[str, str, str | None] | None] = (
        "keras.src.models.functional", "Functional", "Functional",
    )  # fmt: skip
    counts_making = True
    graph_arguments: ClassVar[tuple[str, ...]] = ("inputs", "outputs")

    def __init__(
        self, inputs: Any = None, outputs: Any = None, name: str | None = None, trainable: bool = True
    ) -> None:
        self._begin(name)
        starts, ends = from_intermediate(symbolic_tensors("inputs", inputs), symbolic_tensors("outputs", outputs))
        self._set_graph(pack_as(inputs, starts), pack_as(outputs, ends))
        self.layers = [layer for layer in self.graph.layers if not isinstance(layer, MaskOperation)]
        if not trainable:
            self.trainable = False

    def _begin(self, name: str | None) -> None:
        if type(self).call is not Layer.call:
            raise NotImplementedError(
                f"{type(self).__name__} must not define call: a model is made of inputs and outputs; what a call does "
                "belongs into a Layer with call and vjp, or the model under real Keras"
            )
        require_own_steps(self)
        plain = "functional" if type(self) is Model else type(self).__name__
        super().__init__(name=auto_name(plain) if name is None else name)
        self.layers = []
        self.scores = Scores()

    @stored_property
    def _prepared(self) -> Prepared:
        # What a class of a user's does in `run` has to count.
        own = type(self).run.__module__.startswith("fastmask.")
        return Prepared(self.graph if self.built and own else None)

    def build(self, input_shape: Any = None) -> None:
        """Check that the model takes inputs of a shape, or of a list of them; it is built already."""
        if input_shape is not None:
            self.compute_output_shape(input_shape)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Return a layer by its name or its place.

        Raises
        ------
        ValueError
            If there is none, or not exactly one argument is given.
        """
        if (name is None) == (index is None):
            raise ValueError(f"name, index: expected exactly one of them, got {name!r} and {index!r}")
        names = [layer.name for layer in self.layers]
        if name is None and index is not None and -len(names) <= index < len(names):
            return self.layers[index]
        if name not in names:
            raise ValueError(
                f"{'index' if name is None else 'name'}: expected that of one of the layers "
                f"{', '.join(names)}, got {index if name is None else name!r}"
            )
        return self.layers[names.index(name)]

    def summary(self, print_fn: Callable[[str], Any] = print, expand_nested: bool = False) -> None:
        """Print the layers with their output shapes, numbers of weights, and the mask's way.

        Parameters
        ----------
        print_fn : callable, default print
            Gets the text.
        expand_nested : bool, default False
            Whether to list the layers of models within the model.
        """
        print_fn(table(self, expand_nested))

    def __call__(
        self, x: Any, mask: Any = None, initial_state: Any = None, training: bool | None = None, **options: Any
    ) -> Any:
        """Return the outputs for one batch.

        Parameters
        ----------
        x : array_like (B, ...), sequence of B sequences, PackedSequence or KerasTensor
            Or a list or dict of these for several inputs.
        mask : array_like of bool (B, T), optional
            For a padded `x` whose first layer makes no mask of its own.
        initial_state
            Only None.
        training : bool, default False
            Whether dropout acts.

        Returns
        -------
        ndarray, list of ndarray, PackedSequence or KerasTensor
            As `predict` returns it, but packed for a packed `x` and symbolic for a symbolic one.
        """
        self._check_options(options)
        if type(x) is not np.ndarray:
            if is_symbolic(x):
                return self._connected(self._flat("x", x), mask, training)
            if any(isinstance(value, PackedSequence) for value in flatten(x)):
                return self.pack_outputs(self.run(self._flat("x", x), training=bool(training))[0])
        return self.predict_step(as_batch(x, None, None, self.layout), mask, bool(training))

    def predict_outputs(self, batch: Batch, mask: Any = None, training: bool = False) -> list[Any]:
        """Return the outputs of one batch, prepared if it is small."""
        found = None if training else self._prepared.run(batch.x[0], mask)
        if found is None:
            return super().predict_outputs(batch, mask, training)
        self.tokens_seen += found[1]
        return [found[0]]

    def run(
        self, x: Sequence[Any], mask: ArrayLike | None = None, *, training: bool = False, keep: bool = False
    ) -> tuple[list[Any], Callable[[Sequence[Any]], list[GradientOf]]]:
        """Return the outputs, packed where they have a time axis, and their pullback.

        Parameters
        ----------
        x : sequence of array_like, list of sequences, or PackedSequence
            One for each input.
        mask, training
            As for a call.
        keep : bool, default False
            Whether the pullback will be used.

        Returns
        -------
        outputs : list of ndarray or PackedSequence
        pullback : callable
            Takes the gradients by the outputs' values, None for zeros, and returns those by
            `trainable_weights`, each beside its variable, None where no gradient arrives.
        """
        plans: Plans = []
        run = Run(self.graph, training, keep)
        outputs = run.forward([Entry(value, mask, plans) for value in x])
        self.tokens_seen += sum([plan.tokens for plan in plans]) if plans else len(x[0])

        def pullback(gradients: Sequence[Any]) -> list[GradientOf]:
            weights = run.backward(gradients)[1]
            return [(weights.get(id(variable)), variable) for variable in self.trainable_weights]

        return outputs, pullback

    def reset_states(self) -> None:
        """Forget the states that stateful layers keep."""
        for layer in self.layers:
            if isinstance(layer, Model) or getattr(layer, "stateful", False):
                layer.reset_states()  # type: ignore[attr-defined]

    def graph_config(self) -> dict[str, Any]:
        """Return the graph as Keras writes it, whatever class the model has."""
        return configs.functional_config(self, map_structure)

    def get_config(self) -> dict[str, Any]:
        """Return the graph as Keras writes it, without weights, and the arguments of a subclass's constructor.

        Without the graph if that constructor makes it, and takes no inputs and outputs.
        """
        known = {"name": self.name, "trainable": self.trainable}
        if configs.takes_graph(type(self)):
            known = self.graph_config()
        return known | self.kept_arguments((*known, *self.graph_arguments))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """Return a new model, with new weights, made from what `get_config` returned.

        A subclass is made with all entries of `config` as arguments of its constructor, but for a graph, which becomes
        its inputs and outputs.

        Parameters
        ----------
        config : dict
        custom_objects : dict of str to class, optional
            Layer classes of your own by name.

        Raises
        ------
        TypeError
            If the constructor of a subclass takes other arguments.
        """
        if not (configs.takes_graph(cls) and layer_configs(config)):
            return cast(Self, configs.made(cls, config))
        inputs, outputs = configs.rebuilt(config, custom_objects)
        given = configs.beside_graph(cls is Model, config) | {"inputs": inputs, "outputs": outputs}
        return cast(Self, configs.made(cls, given))
