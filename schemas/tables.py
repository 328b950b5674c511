"""The tables of a store. One sentence each; ``python -m gradstore.schemas`` prints them as JSON.

Joins are by id. A table whose key has several columns carries their hash in ``row_id``, so that each table
has exactly one key column for Lance to hold unique.
"""

from dataclasses import dataclass

import pyarrow as pa

# Lance keeps keys unique between concurrent writers only where the schema says so.
PRIMARY_KEY = {
    b"lance-schema:unenforced-primary-key": b"true",
    b"lance-schema:unenforced-primary-key:position": b"1",
}
STRINGS = pa.list_(pa.string())
TIME = pa.timestamp("us", tz="UTC")


def column(name: str, kind: pa.DataType, doc: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={b"doc": doc.encode()})


def key(name: str, doc: str) -> pa.Field:
    return pa.field(name, pa.string(), nullable=False, metadata={b"doc": doc.encode(), **PRIMARY_KEY})


@dataclass(frozen=True)
class Table:
    """A table's name, what a row of it is, and its Arrow schema (the first column is the key)."""

    name: str
    row: str
    schema: pa.Schema

    @property
    def key(self) -> str:
        return self.schema.names[0]

    def printed(self) -> dict[str, object]:
        """The table as plain JSON values."""
        columns = [
            {"name": f.name, "type": str(f.type), "nullable": f.nullable, "doc": f.metadata[b"doc"].decode()}
            for f in self.schema
        ]
        return {"table": self.name, "row": self.row, "key": self.key, "columns": columns}


SAMPLES = Table(
    "samples",
    "one question, read from one file",
    pa.schema(
        [
            key("sample_id", "hash of task, normalised question, ordered choices"),
            column("source", pa.string(), "preset or data set it came from"),
            column("split", pa.string(), "name of the file or split", nullable=True),
            column("role", pa.string(), "train | demo | test; select touches only train"),
            column("subject", pa.string(), "topic, spaces for underscores", nullable=True),
            column("task", pa.string(), "mcqa | oeqa"),
            column("question", pa.string(), "as read, stripped"),
            column("choices", STRINGS, "mcqa: options in order, lettered A, B, …", nullable=True),
            column("answer", pa.string(), "mcqa: gold letter; oeqa: gold text"),
            column("aliases", STRINGS, "oeqa: accepted answers, the gold text first", nullable=True),
            column("ordinal", pa.int64(), "position in its file, from 0"),
            column("exposure", pa.string(), "lab only: often | rarely | never seen in pretraining", nullable=True),
        ]
    ),
)

PROMPTS = Table(
    "prompts",
    "one way of asking a model; enough to export without its tokenizer",
    pa.schema(
        [
            key("prompt_id", "hash of template texts, chat template, demos, refusal text"),
            column("template", pa.string(), "name of the template"),
            column("mcqa", pa.string(), "template text for multiple choice"),
            column("oeqa", pa.string(), "template text for open questions"),
            column("chat_template", pa.string(), "Jinja source of the tokenizer; null: plain text", nullable=True),
            column("bos_token", pa.string(), "special token", nullable=True),
            column("eos_token", pa.string(), "special token", nullable=True),
            column("refusal_text", pa.string(), "the refusal target"),
            column("demos", STRINGS, "sample ids of the few-shot demos, in order"),
        ]
    ),
)

PROBES = Table(
    "probes",
    "what one model knows of one sample, under one probe",
    pa.schema(
        [
            key("row_id", "hash of sample_id, probe_id"),
            column("sample_id", pa.string(), "→ samples"),
            column(
                "probe_id",
                pa.string(),
                "hash of model or checkpoint, prompt, sampling and certainty settings",
            ),
            column("model_id", pa.string(), "base model"),
            column("checkpoint_id", pa.string(), "→ checkpoints; null: the base model itself", nullable=True),
            column("prompt_id", pa.string(), "→ prompts"),
            column("correctness", pa.float32(), "0–1: p(gold) or share of correct samples", nullable=True),
            column("certainty", pa.float32(), "0–1, 1 = certain", nullable=True),
            column("entropy", pa.float32(), "nats, of options or of answers", nullable=True),
            column("choice_probs", pa.list_(pa.float32()), "mcqa: renormalised over the options", nullable=True),
            column("option_mass", pa.float32(), "mcqa: p of all options together, of all tokens", nullable=True),
            column("generations", STRINGS, "oeqa: sampled answers", nullable=True),
            column("verdicts", STRINGS, "oeqa: correct | wrong | refused, one a generation", nullable=True),
            column("n_samples", pa.int32(), "draws behind the numbers; 0 for mcqa"),
            column("status", pa.string(), "ok | truncated | nan"),
        ]
    ),
)

CHECKPOINTS = Table(
    "checkpoints",
    "one adapter with the optimizer state that the next step would use",
    pa.schema(
        [
            key("checkpoint_id", "hash of model_id, adapter, moments, step, betas, eps, learning rate"),
            column("model_id", pa.string(), "base model"),
            column("name", pa.string(), "folder name, e.g. epoch-3"),
            column("step", pa.int64(), "optimizer steps taken"),
            column("epoch", pa.int64(), "epochs finished; null: unknown", nullable=True),
            column("learning_rate", pa.float64(), "mean over the epoch: the checkpoint's weight in influence"),
            column("beta1", pa.float64(), "Adam"),
            column("beta2", pa.float64(), "Adam"),
            column("eps", pa.float64(), "Adam, outside the root"),
            column("adapter_digest", pa.string(), "hash of the adapter's tensors"),
            column("moments_digest", pa.string(), "hash of the moments; null: no optimizer state", nullable=True),
            column("training_ids", STRINGS, "sample ids it was trained on", nullable=True),
            column("libraries", pa.string(), "JSON: package → version", nullable=True),
        ]
    ),
)

RECIPES = Table(
    "recipes",
    "everything besides the sample and the checkpoint that decides a gradient row",
    pa.schema(
        [
            key("recipe_id", "hash of all other columns"),
            column("feature", pa.string(), "adam | adam-delta | less | second-moment | sgd | sign"),
            column("loss_reduction", pa.string(), "mean | sum over the response's tokens"),
            column("prompt_id", pa.string(), "→ prompts"),
            column("refusal_text", pa.string(), "text of the response called refusal"),
            column("max_length", pa.int32(), "tokens"),
            column("dtype", pa.string(), "compute type, and how it departs from it: float32/tf32, bfloat16/nf4"),
            column("attention", pa.string(), "attention implementation"),
            column("sketch_kind", pa.string(), "countsketch | rademacher"),
            column("sketch_dim", pa.int32(), "floats a row"),
            column("sketch_seed", pa.int64(), "seed of hash and signs"),
            column("sketch_sparsity", pa.int32(), "non-zeros a coordinate"),
        ]
    ),
)


def gradients(dim: int) -> Table:
    """The gradient table of one recipe: vectors of ``dim`` half floats. Rows are immutable."""
    return Table(
        "gradients",
        "what one sample, under one response, at one checkpoint, through one recipe, would change",
        pa.schema(
            [
                key("row_id", "hash of sample_id, response, checkpoint_id, recipe_id"),
                column("sample_id", pa.string(), "→ samples"),
                column("response", pa.string(), "answer | refusal"),
                column("checkpoint_id", pa.string(), "→ checkpoints"),
                column("recipe_id", pa.string(), "→ recipes"),
                column(
                    "vector",
                    pa.list_(pa.float16(), dim),
                    "unit norm; null unless status is ok",
                    nullable=True,
                ),
                column("norm", pa.float32(), "of the sketch before it was normalised", nullable=True),
                column("loss", pa.float32(), "nats a response token", nullable=True),
                column("n_tokens", pa.int32(), "response tokens under the loss, end-of-sequence included"),
                column("status", pa.string(), "ok | zero | nan | truncated | no-label"),
            ]
        ),
    )


GROUPS = Table(
    "groups",
    "one member of one group of samples",
    pa.schema(
        [
            key("row_id", "hash of group_id, sample_id"),
            column("group_id", pa.string(), "hash of definition and members"),
            column("sample_id", pa.string(), "→ samples"),
            column("name", pa.string(), "known | unknown | a name"),
            column("definition", pa.string(), "JSON: probe, threshold, boundary, filter"),
        ]
    ),
)

INFLUENCE = Table(
    "influence",
    "the mean gradient product of one sample's response with one group",
    pa.schema(
        [
            key("row_id", "hash of sample_id, response, recipe_id, checkpoints, group_id"),
            column("sample_id", pa.string(), "→ samples"),
            column("response", pa.string(), "answer | refusal, on both sides of the product"),
            column("recipe_id", pa.string(), "→ recipes"),
            column("checkpoints", pa.string(), "JSON: checkpoint_id → weight, weights sum to 1"),
            column("group_id", pa.string(), "→ groups"),
            column("target", pa.string(), "known | unknown | a name"),
            column("score", pa.float64(), "−1–1, mean cosine; the self-term is included"),
        ]
    ),
)

SELECTIONS = Table(
    "selections",
    "what became of one candidate in one selection",
    pa.schema(
        [
            key("row_id", "hash of selection, sample_id"),
            column("selection", pa.string(), "its name"),
            column("selection_id", pa.string(), "hash of settings and of the groups it was made from"),
            column("sample_id", pa.string(), "→ samples"),
            column("prompt_id", pa.string(), "→ prompts; how the exported row asks"),
            column("response", pa.string(), "answer | refusal; null: not selected", nullable=True),
            column("target_text", pa.string(), "what the model is to say", nullable=True),
            column("knowledge", pa.string(), "known | unknown; null: in neither group", nullable=True),
            column("rank", pa.int32(), "from 1 within its group; null: not selected", nullable=True),
            column("score", pa.float64(), "what it was ranked by", nullable=True),
            column("i_ref", pa.float64(), "influence on the unknown group", nullable=True),
            column("i_over", pa.float64(), "influence on the known group", nullable=True),
            column("reason", pa.string(), "selected, or why not"),
            column("weight", pa.float64(), "loss weight; null: not selected", nullable=True),
        ]
    ),
)

EVALUATIONS = Table(
    "evaluations",
    "what one model said to one test question",
    pa.schema(
        [
            key("row_id", "hash of evaluation, sample_id"),
            column("evaluation", pa.string(), "its name"),
            column("sample_id", pa.string(), "→ samples"),
            column("model_id", pa.string(), "base model"),
            column("prompt_id", pa.string(), "→ prompts"),
            column("output", pa.string(), "greedy text"),
            column("verdict", pa.string(), "correct | wrong | refused | unparsed"),
            column("verdict_reference", pa.string(), "the same by the literature's judge", nullable=True),
            column("confidence", pa.float32(), "0–1: geometric mean of the tokens' probabilities", nullable=True),
            column("trained_on", pa.bool_(), "the adapter was trained on it; null: not known", nullable=True),
            column("distribution", pa.string(), "id | ood, as the files were given; null: not said", nullable=True),
        ]
    ),
)

METRICS = Table(
    "metrics",
    "one number of one evaluation, with its 95 % interval",
    pa.schema(
        [
            key("row_id", "hash of evaluation, against, scope, subject, metric"),
            column("evaluation", pa.string(), "→ evaluations, its name"),
            column("against", pa.string(), "the initial model's evaluation; null: needs none", nullable=True),
            column(
                "scope", pa.string(), "all | id | ood | source or source/split | subject | macro, the subjects' mean"
            ),
            column("subject", pa.string(), "of scope subject", nullable=True),
            column("metric", pa.string(), "correct | ths | aurc | …"),
            column("value", pa.float64(), "null: undefined, see note", nullable=True),
            column("low", pa.float64(), "2.5th percentile over resampled questions", nullable=True),
            column("high", pa.float64(), "97.5th percentile", nullable=True),
            column("n", pa.int64(), "questions behind it"),
            column("note", pa.string(), "why it is undefined, or what was left out", nullable=True),
        ]
    ),
)

RUNS = Table(
    "runs",
    "one stage, as it was asked for and as it ended",
    pa.schema(
        [
            key("run_id", "hash of stage, settings, versions read"),
            column("stage", pa.string(), "ingest | probe | …"),
            column("status", pa.string(), "started | finished | failed"),
            column("settings", pa.string(), "JSON"),
            column("versions_read", pa.string(), "JSON: table → Lance version at the start"),
            column("versions_written", pa.string(), "JSON: table → Lance version at the end", nullable=True),
            column("counts", pa.string(), "JSON: what → how many", nullable=True),
            column("plan", pa.string(), "JSON: what was measured once, to plan the work", nullable=True),
            column("libraries", pa.string(), "JSON: package → version"),
            column("started_at", TIME, "UTC"),
            column("finished_at", TIME, "UTC", nullable=True),
        ]
    ),
)

REJECTS = Table(
    "rejects",
    "one thing that was not taken, and why",
    pa.schema(
        [
            key("reject_id", "hash of stage, file, line, reason, raw"),
            column("stage", pa.string(), "ingest | probe"),
            column("file", pa.string(), "name of the file", nullable=True),
            column("line", pa.int64(), "from 1; records of JSON arrays are counted", nullable=True),
            column("sample_id", pa.string(), "where it had one", nullable=True),
            column("reason", pa.string(), "a short code"),
            column("detail", pa.string(), "the reason in words"),
            column("raw", pa.string(), "what was read, cut at 2000 characters", nullable=True),
        ]
    ),
)

DEFAULT_DIM = 8192
_FIXED = (
    SAMPLES,
    PROMPTS,
    PROBES,
    CHECKPOINTS,
    RECIPES,
    GROUPS,
    INFLUENCE,
    SELECTIONS,
    EVALUATIONS,
    METRICS,
    RUNS,
    REJECTS,
)
TABLES: dict[str, Table] = {t.name: t for t in (*_FIXED, gradients(DEFAULT_DIM))}
