#!/usr/bin/env python3
"""Write a tiny model with random weights that a real vLLM serves without any download.

    make_tiny_model.py OUT [--kind chat|embed] [--layers N] [--seed N] [--no-chat-template]

Its answers are noise; its interface, token counts and limits are real. The same arguments give the same bytes.
Two layers outrun vLLM's own API process and make streams arrive in bursts: streaming tests want --layers 24.
Needs torch, transformers and tokenizers, all of which the engine image has in /opt/vllm.
"""

import argparse
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

# Before the imports below, which read them: no look-ups on the hub, and no thread-dependent order in BPE training.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

VOCABULARY = 1024
HIDDEN = 128
HEADS = 4  # vLLM's CPU attention wants a head size that is a multiple of 32: 128 / 4
CONTEXT = {"chat": 2048, "embed": 512}  # in tokens

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
ROLES = [f"<|{role}|>" for role in ("system", "user", "assistant", "tool")]
END_OF_TURN = "<|end|>"

# Each message adds its role, its content and two separators to the prompt, so prompt_tokens grows with the history.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}{{ '<|system|>' }}{{ tools | tojson }}{{ '<|end|>' }}{% endif %}
{%- for message in messages %}
{{- '<|' ~ message.role ~ '|>' }}
{{- message.content if message.content is string else message.content | tojson }}
{{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

TEXT = """
a about after all and any are as ask at back be because big by can city cloud cold come could cup day do door down each
early end every eye far few find first five for four from garden give go good green hand has have he hello her here
high his hour how if in into is it just keep know large last late left light like line little long look make many may
more morning most much music must my name near never new next night no not now number of off old on one only open or
other our out over own paper part people place point question quick quiet rain read red right river road room round
said same say sea second see she short should side sing six small snow so some song soon stone story street such sun
take talk tell ten than that the their them then there these they thing think this three time to town train tree two
under until up us very wait walk want warm was water way we week well were what when where which while white who why
will wind window winter with word work world would write year yes you young your
"""


def sentences(seed: int, count: int = 3000) -> Iterator[str]:
    """The text the tokenizer learns its merges from: English words in no order, capitals, digits, punctuation."""
    pick = random.Random(seed)
    vocabulary = TEXT.split()
    for _ in range(count):
        words = pick.choices(vocabulary, k=pick.randint(4, 16))
        yield f"{' '.join(words).capitalize()}{pick.choice('.?!,')} {pick.randint(0, 9999)}\n"


def train_tokenizer(seed: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text at all can be encoded, and decoding gives it back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS, *ROLES, END_OF_TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(seed), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=[*ROLES, END_OF_TURN],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def random_llama(layers: int, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=CONTEXT["chat"],
        tie_word_embeddings=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.update(**special)
    return model


def random_bert(layers: int, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT["embed"],
        pad_token_id=tokenizer.pad_token_id,
    )
    return BertModel(config)


def write_sentence_transformers_layout(out: Path) -> None:
    """Without these files vLLM takes the first token's vector; with them the mean, scaled to length 1."""
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{name}"}
        for place, (path, name) in enumerate(steps)
    ]
    pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (out / "modules.json").write_text(json.dumps(modules, indent=2))
    (out / "1_Pooling").mkdir(exist_ok=True)
    (out / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2))


def make_readable_by_anyone(out: Path) -> None:
    """safetensors writes 0600, and an engine's container need not run as the user who made the model."""
    for path in [out, *out.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write; files in it are overwritten")
    parser.add_argument("--kind", choices=["chat", "embed"], default="chat")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-chat-template", action="store_true", help="a base model: completions, but no chat")
    options = parser.parse_args()

    logging.disable_progress_bar()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    tokenizer = train_tokenizer(options.seed, CONTEXT[options.kind])
    if options.kind == "embed":
        model = random_bert(options.layers, tokenizer)
        write_sentence_transformers_layout(options.out)
    else:
        model = random_llama(options.layers, tokenizer)
        if not options.no_chat_template:
            tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(options.out)
    model.eval().to(torch.bfloat16).save_pretrained(options.out)
    make_readable_by_anyone(options.out)
    print(f"{options.out}: {sum(weight.numel() for weight in model.parameters())} parameters")


if __name__ == "__main__":
    main()
