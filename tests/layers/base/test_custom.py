"""Layers that users define: build, call and vjp, masks, other layers inside, losses and metrics as functions."""

import numpy as np
import pytest
from helpers.numeric import assert_weight_gradient

import fastmask as fm
from fastmask import layers

F64 = {"dtype": "float64"}
WORDS = np.array([[1, 2, 0, 3], [4, 0, 0, 0], [0, 5, 6, 2]])


class Scale(layers.Layer):
    """x times a weight per feature."""

    supports_masking = True

    def __init__(self, start=2.0, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape):
        self.scale = self.add_weight((input_shape[-1],), fm.initializers.Constant(self.start), "scale")

    def call(self, x):
        return x * self.scale.value

    def vjp(self, x):
        return self.call(x), lambda dy: (dy * self.scale.value, [(dy * x).sum(axis=tuple(range(x.ndim - 1)))])


class Forgetful(layers.Layer):
    """No gradient."""

    supports_masking = True

    def call(self, x):
        return x * 2


class EverySecond(layers.Layer):
    """Steps 0, 2, 4 and so on, with their mask."""

    supports_masking = True

    def call(self, x):
        return x[:, ::2]

    def vjp(self, x):
        def pullback(dy):
            dx = np.zeros_like(x)
            dx[:, ::2] = dy
            return dx

        return self.call(x), pullback

    def compute_output_shape(self, input_shape):
        return (input_shape[0], None, input_shape[2])

    def compute_mask(self, x, mask=None):
        return None if mask is None else mask[:, ::2]


class Total(layers.Layer):
    """The sum and the mean of the valid steps, through a layer of its own."""

    supports_masking = True

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(units, "tanh", dtype=self.dtype)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, x, mask=None):
        return self.vjp(x, mask)[0]

    def vjp(self, x, mask=None):
        y, back = self.dense.vjp(x)
        kept = np.ones(x.shape[:2]) if mask is None else mask
        count = np.maximum(kept.sum(axis=1, keepdims=True), 1)
        total = (y * kept[..., None]).sum(axis=1)

        def pullback(dy):
            d_total, d_mean = (np.zeros_like(total) if d is None else d for d in dy)
            gradients = back((d_total + d_mean / count)[:, None] * kept[..., None])
            return gradients.inputs, gradients.weights

        return (total, total / count), pullback

    def compute_output_shape(self, input_shape):
        return [(input_shape[0], self.units)] * 2

    def compute_mask(self, x, mask=None):
        return None


class Blend(layers.Layer):
    """The mean of two inputs."""

    takes_list = True

    def call(self, xs):
        return (xs[0] + xs[1]) / 2

    def vjp(self, xs):
        return self.call(xs), lambda dy: [dy / 2, dy / 2]

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def model_of(*stack):
    ids = fm.Input((None,))
    y = layers.Embedding(7, 3, mask_zero=True, **F64)(ids)
    for layer in stack:
        y = layer(y)
    return fm.Model(ids, y)


def check_gradients(model, y):
    model.compile("sgd", "mse")
    _, grads = model.loss_and_gradients(WORDS, y)
    for grad, variable in zip(grads, model.trainable_weights, strict=True):
        dense = grad.dense() if isinstance(grad, fm.ops.SparseRows) else grad
        assert_weight_gradient(dense, lambda: model.loss_and_gradients(WORDS, y)[0], variable)


def test_a_layer_with_a_weight():
    model = model_of(Scale(**F64), layers.GRU(2, **F64))
    scale = model.layers[2]
    assert scale.weights[0].path == f"{scale.name}/scale"
    assert scale.output_shape == (None, None, 3)
    plain = model_of(layers.GRU(2, **F64))
    plain.set_weights([model.get_weights()[0] * 2, *model.get_weights()[2:]])
    np.testing.assert_allclose(model.predict(WORDS), plain.predict(WORDS))
    check_gradients(model, np.ones((3, 2)))
    again = Scale.from_config(scale.get_config())
    assert (again.start, again.dtype) == (2.0, np.float64)


def test_rebuilt_with_custom_objects():
    model = model_of(Scale(3.0, **F64))
    with pytest.raises(ValueError, match="class_name: expected that of a layer, got 'Scale'"):
        fm.Model.from_config(model.get_config())
    again = fm.Model.from_config(model.get_config(), {"Scale": Scale})
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again.predict(WORDS), model.predict(WORDS))


def test_a_forgotten_gradient_is_an_error_when_it_is_needed():
    model = model_of(Forgetful(name="forgetful", **F64), layers.LSTM(2, **F64))
    assert model.predict(WORDS).shape == (3, 2)
    model.compile("sgd", "mse")
    with pytest.raises(NotImplementedError, match=r"layer 'forgetful' \(Forgetful\) has no gradient.*define vjp"):
        model.fit(WORDS, np.ones((3, 2)), verbose=0)
    model.layers[1].trainable = False  # nothing below it is trained any more
    model.fit(WORDS, np.ones((3, 2)), verbose=0)

    class Tripled(Scale):
        def call(self, x):
            return x * 3

    with pytest.raises(NotImplementedError, match="has no gradient"):
        Tripled().apply(np.ones((2, 3)), keep=True)


def test_masks_pass_only_where_a_layer_says_so():
    class Plain(Scale):
        supports_masking = False

    with pytest.raises(TypeError, match="set supports_masking = True on a layer of your own"):
        model_of(Plain(**F64))
    model = model_of(EverySecond(**F64), layers.LSTM(2, **F64))
    table = layers.Embedding(7, 3, mask_zero=True, weights=model.get_weights()[0], **F64)
    lstm = layers.LSTM(2, **F64)
    direct = fm.Sequential([table, lstm])
    lstm.set_weights(model.get_weights()[1:])
    np.testing.assert_allclose(model.predict(WORDS), direct.predict(WORDS[:, ::2]))
    check_gradients(model, np.ones((3, 2)))


def test_several_outputs_and_layers_inside():
    ids = fm.Input((None,))
    total, mean = Total(2, **F64)(layers.Embedding(7, 3, mask_zero=True, **F64)(ids))
    assert (total.shape, mean.mask_source) == ((None, 2), None)
    model = fm.Model(ids, layers.Multiply(**F64)([total, mean]))
    assert [w.shape for w in model.weights] == [(7, 3), (3, 2), (2,)]
    check_gradients(model, np.ones((3, 2)))
    check_gradients(fm.Model(ids, mean), np.ones((3, 2)))


def test_several_inputs():
    x, y = fm.Input((2,)), fm.Input((2,))
    model = fm.Model([x, y], Blend()([layers.Dense(2)(x), y]))
    model.compile("sgd", "mse")
    loss, grads = model.loss_and_gradients([np.ones((2, 2)), np.ones((2, 2))], np.zeros((2, 2)))
    assert loss > 0
    assert np.abs(grads[0]).max() > 0


def test_what_masks_of_callers_hide_is_not_seen():
    x = np.ones((1, 3, 2))
    x[0, 1] = np.nan
    y, pullback = Scale(**F64).apply(x, mask=[[True, False, True]], keep=True)
    np.testing.assert_array_equal(y, [[[2, 2], [0, 0], [2, 2]]])
    gradients = pullback(np.ones_like(y))
    np.testing.assert_array_equal(gradients.weights[0], [2, 2])
    np.testing.assert_array_equal(gradients.inputs[0, 1], [0, 0])


def test_wrong_gradients_are_errors():
    class Wrong(Scale):
        def vjp(self, x):
            return self.call(x), lambda dy: dy

        def call(self, x):
            return x * self.scale.value

    model = model_of(Wrong(**F64))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="expected one gradient for each of its 1 weights, got 0"):
        model.train_on_batch(WORDS, np.ones((3, 4, 3)))


def test_losses_and_metrics_as_functions():
    def squared(y_true, y_pred):
        difference = y_pred - y_true
        return (difference**2).mean(axis=-1), 2 * difference / difference.shape[-1]

    def largest(y_true, y_pred):
        return np.abs(y_pred - y_true).max(axis=-1)

    model = model_of(layers.Dense(2, **F64))
    x, y = WORDS, np.ones((3, 4, 2))
    model.compile("sgd", "mse")
    expected = model.loss_and_gradients(x, y)
    model.compile("sgd", squared, metrics=[largest])
    found = model.loss_and_gradients(x, y)
    assert found[0] == pytest.approx(expected[0])
    np.testing.assert_allclose(found[1][1], expected[1][1])
    assert list(model.evaluate(x, y, verbose=0, return_dict=True)) == ["largest", "loss"]


def test_a_layer_that_cannot_describe_itself():
    class Silent(layers.Layer):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)

    with pytest.raises(NotImplementedError, match=r"must override get_config: it has no attribute 'size'"):
        Silent(3).get_config()
    with pytest.raises(NotImplementedError, match=r"must define call\(self, x\)"):
        Silent(3)(np.ones((2, 2)))


def test_wrapped_layers_of_ones_own(tmp_path):
    pytest.importorskip("h5py")

    class Own(layers.LSTM):
        pass

    class Times(Scale):
        def __init__(self, start=2.0, **rest):
            super().__init__(start, **rest)

    model = model_of(layers.TimeDistributed(Times(3.0, **F64)), layers.Bidirectional(Own(2, **F64)))
    known = {"Times": Times, "Own": Own}
    model.save(tmp_path / "a.keras")
    for again in (fm.Model.from_config(model.get_config(), known), fm.models.load_model(tmp_path / "a.keras", known)):
        assert isinstance(again.layers[2].layer, Times)
        assert isinstance(again.layers[3].backward_layer, Own)
        again.set_weights(model.get_weights())
        np.testing.assert_array_equal(again.predict(WORDS), model.predict(WORDS))
    with pytest.raises(ValueError, match="no layer class 'Times'"):
        fm.models.load_model(tmp_path / "a.keras")
