"""Moods: what the demo of OxygenREC uses for a reasoning instruction. A mood is a vector over genres and eras.

A movie's own vector is its genres, as a vector of length 1, beside its era times ERA. In training and evaluation a mood is the vector
of the movie that comes next plus Gaussian noise: it stands for a reasoner that guesses right but vaguely. So it is an oracle: the
figures with it say what a good instruction is worth, not that anybody can write one. At serving it comes from the store, or is made
from genre names (`from_names`).
"""

import numpy as np

ERAS = (1970, 1980, 1990, 2000)      # first years of the eras; before them there is one more
ERA = 0.5
NOISE = 0.4                          # standard deviation of each dimension in the evaluation; training draws from NOISES
NOISES = (0.1, 0.5)


def dimensions(data):
    """Names of the dimensions: genres in alphabetical order, then the eras."""
    return sorted({g for gs in data.genres for g in gs}) + ["before 1970", "1970s", "1980s", "1990s", "2000 on"]


def era(years):
    """[items] 0 to 4; 3 where the year is unknown."""
    return np.where(np.isnan(years), 3, np.searchsorted(ERAS, np.nan_to_num(years), side="right"))


def item_moods(data):
    """[items, dimensions] float32."""
    names = dimensions(data)
    out = np.zeros((len(data.titles), len(names)), np.float32)
    for row, genres in zip(out, data.genres):
        row[[names.index(g) for g in genres]] = 1
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    out[np.arange(len(out)), len(names) - len(ERAS) - 1 + era(data.years)] = ERA
    return out


def from_names(names, wanted):
    """The mood of genre and era names, as at serving."""
    out = np.zeros(len(names), np.float32)
    genres = [n for n in wanted if names.index(n) < len(names) - len(ERAS) - 1]
    out[[names.index(n) for n in genres]] = 1 / max(len(genres), 1) ** 0.5
    out[[names.index(n) for n in wanted if n not in genres]] = ERA
    return out


def likelihood(moods, noise, of):
    """How likely each of `of` [leaves, dimensions] makes the moods [b, dimensions], up to a factor a row. [b, leaves]"""
    square = (moods ** 2).sum(1)[:, None] - 2 * moods @ of.T + (of ** 2).sum(1)[None, :]
    return np.exp(-(square - square.min(1, keepdims=True)) / (2 * noise[:, None] ** 2))
