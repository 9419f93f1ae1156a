"""Settings that layers, losses and optimizers read: default dtype and smallest divisor."""

_FLOATS = ("float32", "float64")
_settings: dict[str, str | float] = {"floatx": "float32", "epsilon": 1e-7}


def floatx() -> str:
    """Return the dtype of layers that are given none: ``"float32"`` unless changed."""
    return str(_settings["floatx"])


def set_floatx(value: str) -> None:
    """Set the dtype of layers created from now on.

    Parameters
    ----------
    value : {"float32", "float64"}

    Raises
    ------
    ValueError
        For any other value.
    """
    if value not in _FLOATS:
        raise ValueError(f"value: expected one of {_FLOATS}, got {value!r}")
    _settings["floatx"] = str(value)


def epsilon() -> float:
    """Return the small number that keeps divisors away from zero: 1e-7 unless changed."""
    return float(_settings["epsilon"])


def set_epsilon(value: float) -> None:
    """Set the small number returned by `epsilon`.

    Parameters
    ----------
    value : float
        Greater than zero.

    Raises
    ------
    ValueError
        If `value` is not greater than zero.
    """
    if not value > 0:
        raise ValueError(f"value: expected a number greater than 0, got {value!r}")
    _settings["epsilon"] = float(value)
