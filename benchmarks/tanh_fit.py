"""The coefficients of tanh in `model.networks.lstm_native`, and how exact it is.

    python benchmarks/tanh_fit.py

tanh(x) = x * P(x^2) / Q(x^2) on [0, 8]; beyond, it is 1 in float32. P has degree 5 and Q degree 3. They are found by
least squares of the relative error with weights that grow where the error is large, which makes it even (Lawson 1961).
"""

from __future__ import annotations

import numpy as np

LARGEST = 8.0
ABOVE, BELOW = 5, 3  # degrees in x^2
ROUNDS = 60


def fitted() -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients of P and Q in x^2, the constant first."""
    x = LARGEST * np.cos(np.linspace(0, np.pi / 2, 40_001))[:-1]
    y, u = np.tanh(x), (x / LARGEST) ** 2
    weights = np.ones_like(x)
    for _ in range(ROUNDS):
        columns = [x * u**k for k in range(ABOVE + 1)] + [-y * u**k for k in range(1, BELOW + 1)]
        found = np.linalg.lstsq(np.stack(columns, 1) * (weights / y)[:, None], weights, rcond=None)[0]
        above, below = found[: ABOVE + 1], np.append(1, found[ABOVE + 1 :])
        error = np.abs(x * np.polyval(above[::-1], u) / np.polyval(below[::-1], u) - y) / y
        weights *= (error / error.mean() + 0.1) ** 0.25
        weights /= weights.mean()
    scale = LARGEST**2
    return above / scale ** np.arange(ABOVE + 1), below / scale ** np.arange(BELOW + 1)


def polynomial(coefficients: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Evaluate a polynomial in the type of its values, as the compiled steps do."""
    values = np.full_like(u, coefficients[-1])
    for c in coefficients[-2::-1]:
        values = values * u + c
    return values


def main() -> None:
    """Print the coefficients and the largest errors."""
    above, below = fitted()
    print("P", " ".join(f"{c:.11g}" for c in above))
    print("Q", " ".join(f"{c:.11g}" for c in below))
    x = np.linspace(0, LARGEST, 1_000_001)[1:]
    exact = np.tanh(x)
    found = x * np.polyval(above[::-1], x * x) / np.polyval(below[::-1], x * x)
    print(f"largest relative error, in float64: {np.max(np.abs(found / exact - 1)):.2e}")
    single = x.astype(np.float32)
    top, bottom = (polynomial(c.astype(np.float32), single * single) for c in (above, below))
    rounded = (single * top / bottom).astype(np.float64)
    print(f"largest error, in float32: {np.max(np.abs(rounded - np.tanh(single.astype(np.float64)))):.2e}")


if __name__ == "__main__":
    main()
