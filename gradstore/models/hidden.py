"""The last layer's hidden state of a question, for diagnostics of similarity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gradstore.models.encoding import pad, padding_mask, positions
from gradstore.models.loading import LoadedModel


@torch.inference_mode()
def last_hidden(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Hidden state of each prompt's last token at the last layer, before the output layer: (b, width) float32."""
    mask = padding_mask(prompts, "left").to(loaded.device)
    ids = pad(prompts, loaded.pad_id, "left").to(loaded.device)
    asked = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask), "use_cache": False}
    output = loaded.model(**asked, output_hidden_states=True, logits_to_keep=1)
    return output.hidden_states[-1][:, -1].float().cpu().numpy()
