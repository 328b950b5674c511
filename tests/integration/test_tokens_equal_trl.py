"""A gradient's token ids and labels are those that TRL prepares from the exported row."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from gradstore.export import Example, write_trl
from gradstore.models.answering import letter_tokens
from gradstore.models.encoding import encode
from gradstore.models.pretraining import BOS, EOS, PAD, UNKNOWN, bpe_tokenizer, small_llama
from gradstore.prompts import TEMPLATES, Prompt

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CHOICE = {
    "sample_id": "a" * 32,
    "task": "mcqa",
    "question": "Which gas do plants take up?",
    "choices": ["oxygen", "carbon dioxide", "helium"],
    "answer": "B",
    "aliases": None,
    "subject": "biology",
    "source": "qa",
}
OPEN = {
    "sample_id": "b" * 32,
    "task": "oeqa",
    "question": "Who wrote “Emma” in 1815?",
    "choices": None,
    "answer": "Jane Austen",
    "aliases": ["Jane Austen"],
    "subject": None,
    "source": "qa",
}
TEXTS = [f"{t.mcqa} {t.oeqa} A B C D. I don't know. {OPEN['question']} Jane Austen" for t in TEMPLATES.values()]


def sentencepiece_like():
    """BPE over ▁-prefixed words, as Llama-2's: a space belongs to the word after it, and "Answer: " ends in a ▁."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, byte_fallback=False, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[BOS, EOS, PAD, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN
    )


TOKENIZERS = {"byte-level BPE": lambda: bpe_tokenizer(TEXTS * 3, 500), "SentencePiece-like": sentencepiece_like}


def trl_tokens(folder, tokenizer, max_length):
    """What SFTTrainer makes of an exported file."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [json.loads(line) for line in (folder / "trl" / "train.jsonl").read_text().splitlines()]
    args = SFTConfig(
        output_dir=str(folder / "sft"),
        report_to="none",
        use_cpu=True,
        max_length=max_length,
        bf16=False,
        disable_tqdm=True,
    )
    model = small_llama(tokenizer, width=16, layers=1, heads=2)
    trainer = SFTTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    return {(r["sample_id"], r["group"]): (r["input_ids"], r["labels"]) for r in trainer.train_dataset}


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", ["refuse", "craft-refuse"])
def test_gradient_tokens_are_sft_tokens(tmp_path, kind, chat, template):
    tokenizer = TOKENIZERS[kind]()
    tokenizer.chat_template = CHAT if chat else None
    prompt = Prompt(TEMPLATES[template], chat_template=tokenizer.chat_template)
    examples, ours = [], {}
    for sample in (CHOICE, OPEN):
        for response, group in (("answer", "known"), ("refusal", "unknown")):
            asked, reply = prompt.ask(sample), prompt.reply(sample, prompt.response_text(sample, response))
            name = sample["sample_id"][:31] + ("k" if group == "known" else "u")
            examples.append(Example(name, group, asked, reply, 1.0))
            encoded = encode(tokenizer, asked, reply, max_length=512)
            assert encoded.status == "ok"
            ours[name, group] = (encoded.ids, encoded.labels)
    write_trl(examples, tmp_path, {})
    theirs = trl_tokens(tmp_path, tokenizer, 512)
    assert theirs.keys() == ours.keys()
    for name, (ids, labels) in theirs.items():
        assert list(ids) == ours[name][0], f"{name}: other tokens are trained on than the gradient was taken of"
        assert list(labels) == ours[name][1], f"{name}: the loss covers other tokens than the gradient's"
        assert tokenizer.eos_token_id in [t for t in labels if t != -100], "the end of sequence is not under the loss"


def test_text_boundaries_are_not_token_boundaries():
    """The trap this file is about: "Answer: " + "B" and "Answer:" + " B" are different tokens."""
    tokenizer = sentencepiece_like()
    assert tokenizer("Answer: ")["input_ids"] + tokenizer("B")["input_ids"][1:] != tokenizer("Answer: B")["input_ids"]


@pytest.mark.parametrize("max_length", [5, 12, 200])
def test_what_is_cut_is_marked(max_length):
    tokenizer = TOKENIZERS["byte-level BPE"]()
    prompt = Prompt(TEMPLATES["basic"])
    encoded = encode(tokenizer, prompt.ask(OPEN), prompt.reply(OPEN, "Jane Austen"), max_length)
    assert (encoded.status == "ok") == (max_length == 200)
    assert len(encoded.ids) <= max_length


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", ["basic", "craft-basic"])
def test_letters_are_read_where_they_stand_in_the_text(kind, template):
    """context + letter token is a prefix of the whole row, for every letter."""
    tokenizer, prompt = TOKENIZERS[kind](), Prompt(TEMPLATES[template])
    replies = [prompt.reply(CHOICE, letter) for letter in "ABC"]
    context, tokens = letter_tokens(tokenizer, prompt.ask(CHOICE), replies)
    assert len(set(tokens)) == 3
    for reply, token in zip(replies, tokens, strict=True):
        whole = encode(tokenizer, prompt.ask(CHOICE), reply, 512).ids
        assert whole[: len(context) + 1] == [*context, token]
