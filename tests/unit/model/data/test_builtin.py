"""The digits are the real ones, the splits share nothing, and a batch depends on the seed and the position alone."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from model.config import DATASETS
from model.data import Dataset, batch_indices, load, photos
from model.errors import DataError


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits")


def test_the_digits_are_as_described(data: Dataset) -> None:
    facts = DATASETS["digits"]
    for name, count in (("train", facts.train), ("valid", facts.valid), ("test", facts.test)):
        images = data.split(name)  # type: ignore[arg-type]
        assert images.shape == (count, 1, 8, 8)
        assert images.dtype == np.uint8
        assert (images.min(), images.max()) == (0, 16)


@pytest.mark.slow  # importing scikit-learn takes seconds
def test_the_splits_are_the_agreed_permutation_of_scikit_learns_images(data: Dataset) -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits().images[np.random.default_rng(0).permutation(1797)]
    ours = np.concatenate([data.test, data.valid, data.train])[:, 0]
    assert np.array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["photos-16", "photos-64"])
def test_patches_of_photographs_are_real_and_no_two_parts_share_a_pixel(name: str) -> None:
    patches, recipe = load(name), photos.RECIPES[name]
    assert patches.train.shape[1:] == (3, recipe.side, recipe.side)
    assert (int(patches.train.min()), int(patches.train.max())) == (0, recipe.levels - 1)
    stride = recipe.strides[0]
    assert np.array_equal(patches.train[0, :, :, stride:], patches.train[1, :, :, :-stride])  # they overlap
    neighbours = np.diff(patches.train.astype(int), axis=3)
    assert np.abs(neighbours).mean() < recipe.levels / 12  # as in photographs, unlike in noise: that has a third
    photograph = photos.shrunk_levels(photos.photographs()[0], recipe)
    for part, left in ((patches.train, 0), (patches.valid, recipe.ends[0]), (patches.test, recipe.ends[1])):
        assert np.array_equal(part[0], photograph[: recipe.side, left : left + recipe.side].transpose(2, 0, 1))


def test_each_epoch_has_each_image_once_whatever_the_batch_size() -> None:
    for batch_size in (1, 7, 32, 100, 250):
        stream = np.concatenate([batch_indices(3, p, batch_size, 100) for p in range(0, 400, batch_size)])
        for epoch in range(4):
            assert sorted(stream[epoch * 100 : epoch * 100 + 100]) == list(range(100))


def test_a_batch_is_a_function_of_seed_and_position() -> None:
    stream = np.concatenate([batch_indices(3, p, 10, 25) for p in range(0, 200, 10)])
    for position in (0, 1, 24, 25, 26, 49, 133):
        assert np.array_equal(batch_indices(3, position, 60, 25), stream[position : position + 60])
    assert not np.array_equal(batch_indices(3, 0, 25, 25), batch_indices(3, 25, 25, 25))
    assert not np.array_equal(batch_indices(3, 0, 25, 25), batch_indices(4, 0, 25, 25))


def test_missing_data_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no data set 'mnist'; known: digits, photos-16"):
        load("mnist")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match="needs scikit-learn: pip install"):
        load("digits")
    with pytest.raises(DataError, match="the photographs need scikit-learn: pip install"):
        load("photos-16")
