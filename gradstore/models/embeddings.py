"""Sentence embeddings of sampled answers (extra ``text``): CRaFT's certainty of open questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gradstore.errors import MissingExtra, ModelError

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"


def load_embedder(name: str = DEFAULT) -> Callable[[Sequence[str]], np.ndarray]:
    """A function texts → unit rows (n, d) float32. ``name`` is a hub id or a folder with a sentence-transformer."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingExtra("sentence-transformers", "text", "certainty by embeddings") from None
    try:
        model = SentenceTransformer(name, device="cpu")
    except (OSError, ValueError) as error:
        raise ModelError(f"no sentence-transformer at {name}: {str(error).splitlines()[0]}") from None

    def embed(texts: Sequence[str]) -> np.ndarray:
        return model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    return embed
