#!/usr/bin/env python3
"""Makes tests/tokenizer/references: small tokenisers of every kind, trained here, with the ids that two independent libraries give.

    pip install tokenizers==0.23.3 sentencepiece protobuf
    python make_references.py OUT

Each file: {"tokenizer": <tokenizer.json>, "strings": [{"text", "ids", "ids_with_specials", "decoded"}]}. splits.json: pieces of the strings under the
regular expressions that published models ship, by the name that GGUF files use. charsmap.json: sentencepiece's own ids beside the Precompiled step.
"""
import json
import pathlib
import sys
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = """The quick brown fox jumps over the lazy dog. It's five o'clock, isn't it? We'll see; they've 12,345.67 reasons (or 3).
Toy Story (1995) is an animated comedy; Heat (1995) is a crime thriller. Users who liked both gave 4.5 stars on 2021-03-04.
naïve café crème brûlée, Ångström, straße, İstanbul, ﬁne ﬂow, ½ of ２３, e\u0301le\u0300ve. Привет, мир! 東京タワーと日本語。한국어 텍스트.
def f(x):\n    return x**2 + 1  # comment\n\tindent\twith\ttabs\n\n\nthree newlines. Sauna, cinema, explanation, recommendation, because of the genre.
explain explains explained explaining explanation user users used useful item items genre genres rating ratings rated because"""

STRINGS = [
    "", " ", "  ", "\n", "\t x", "a", "Hello, world!", " leading and trailing ", "two  blanks   three", "It's we'll they've DON'T", "12,345.67 and 2021-03-04",
    "naïve café", "e\u0301le\u0300ve", "İstanbul ﬁne ½ ２３", "Привет, мир!", "東京タワー。한국어", "🎬 movie 👩‍👩‍👧 night", "def f(x):\n    return x", "x\u00a0y\u2003z", "\u200bzero\ufeff width",
    "<s>not special</s>", "<mask>x<mask> y", "▁under ▁line", "aaaaaaaaaaaaaaaaaaaaaaaa", "explanation of explanations", "Ünïcödé ÅNGSTRÖM", "a\u0300\u0301\u0302b", "\u0001control\u0007", "क्षेत्र ก็ 𐐀𐐨",
    "CamelCaseWords and snake_case_words", "tabs\t\tand\r\nCRLF", "...!!!???", " \n \n x", "100%", "über-größe", "ΑΒΓ αβγ", "ªº²³", "foo\n\n\nbar", "émile ǅ ǆ", "x² + y³ = z",
]


def write(path, tokenizer, strings=STRINGS):
    rows = []
    for text in strings:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        rows.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)})
    path.write_text(json.dumps({"tokenizer": json.loads(tokenizer.to_str()), "strings": rows}, ensure_ascii=True, separators=(",", ":")) + "\n")


def train(tokenizer, trainer):
    tokenizer.train_from_iterator(TEXT.split("\n") * 3, trainer)
    return tokenizer


SPECIAL = [AddedToken("<s>", special=True), AddedToken("</s>", special=True), AddedToken("<unk>", special=True), AddedToken("<mask>", special=True, lstrip=True)]


def unigram_normalised():
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=False, right=True)])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    return train(t, trainers.UnigramTrainer(vocab_size=330, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False))


def unigram_words():
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase(), normalizers.StripAccents()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    t.decoder = decoders.Metaspace()
    return train(t, trainers.UnigramTrainer(vocab_size=250, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False))


def unigram_bytes():
    t = unigram_normalised()
    document = json.loads(t.to_str())
    vocabulary = document["model"]["vocab"]
    vocabulary += [[f"<0x{b:02X}>", -20.0] for b in range(256)]
    document["model"]["byte_fallback"] = True
    document["normalizer"] = {"type": "NFC"}
    document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    document["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}]}
    return Tokenizer.from_str(json.dumps(document))


def bpe_metaspace(scheme, split):
    alphabet = [f"<0x{b:02X}>" for b in range(256)]
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    train(t, trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL + [AddedToken(a) for a in alphabet], show_progress=False))
    document = json.loads(t.to_str())
    document["pre_tokenizer"]["split"] = split
    document["added_tokens"] = [a for a in document["added_tokens"] if not a["content"].startswith("<0x")]
    document["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}]}
    return Tokenizer.from_str(json.dumps(document))


def byte_level(steps, normalizer=None):
    t = Tokenizer(models.BPE())
    if normalizer is not None:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(s), "isolated") for s in steps] + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    return train(t, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))


CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
# Letters with case as DeepSeek's file lists them, as code points.
CASED_RANGES = (
    "B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 "
    "10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 "
    "1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 "
    "210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE "
    "2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F "
    "104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943 "
)
CASED = "".join("-".join(chr(int(x, 16)) for x in r.split("-")) for r in CASED_RANGES.split())
SPLITS = {
    "llama3": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL],
    "qwen2": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL],
    "deepseek-llm": [r"[\r\n]", r"\s?[A-Za-z" + CASED + "]+",
                     "\\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+", r"\p{N}+"],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*""" + TAIL],
    "tekken": [r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL],
    "gpt-4o": [r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL],
    "bloom": [" ?[^(\\s|.,!?…。，、।۔،)]+"],
}


def pieces(steps, text):
    if text == "":
        return []
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(s), "isolated") for s in steps])
    return [piece for piece, _ in splitter.pre_tokenize_str(text)]


def charsmap(out):
    """A unigram model of sentencepiece with a character map of a few rules: its own ids, and the same vocabulary as tokenizer.json."""
    rules = [("ﬁ", "fi"), ("½", "1/2"), ("é", "e"), ("e\u0301", "e"), ("\u00a0", " "), ("\t", " "), ("２", "2"), ("３", "3"), ("ß", "ss"), ("…", "..."), ("İ", "I")]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "rules.tsv").write_text("".join(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n" for a, b in rules))
        (folder / "text.txt").write_text(TEXT)
        sentencepiece.SentencePieceTrainer.train(input=str(folder / "text.txt"), model_prefix=str(folder / "m"), vocab_size=160, model_type="unigram",
                                                 normalization_rule_tsv=str(folder / "rules.tsv"), remove_extra_whitespaces=True, byte_fallback=False, minloglevel=2)
        model = model_pb2.ModelProto()
        model.ParseFromString((folder / "m.model").read_bytes())
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "m.model"))
    texts = [s for s in STRINGS if not any(p in s for p in ("<s>", "</s>", "<mask>"))]
    out.write_text(json.dumps({
        "pieces": [p.piece for p in model.pieces], "scores": [p.score for p in model.pieces], "types": [p.type for p in model.pieces],
        "charsmap": list(model.normalizer_spec.precompiled_charsmap),
        "strings": [{"text": s, "ids": processor.encode(s)} for s in texts]}, separators=(",", ":")) + "\n")
    return model


def unigram_precompiled(model):
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": __import__("base64").b64encode(model.normalizer_spec.precompiled_charsmap).decode()},
            {"type": "Strip", "strip_left": False, "strip_right": True}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [[p.piece, p.score] for p in model.pieces], "byte_fallback": False}}
    return Tokenizer.from_str(json.dumps(document))


def main():
    out = pathlib.Path(sys.argv[1])
    write(out / "unigram_normalised.json", unigram_normalised())
    write(out / "unigram_words.json", unigram_words())
    write(out / "unigram_bytes.json", unigram_bytes())
    write(out / "bpe_metaspace_first.json", bpe_metaspace("first", False))
    write(out / "bpe_metaspace_split.json", bpe_metaspace("always", True))
    write(out / "byte_level_v3.json", byte_level(SPLITS["deepseek-v3"], normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])))
    model = charsmap(out / "sentencepiece_charsmap.json")
    write(out / "unigram_precompiled.json", unigram_precompiled(model))
    (out / "splits.json").write_text(json.dumps({name: [{"text": s, "pieces": pieces(steps, s)} for s in STRINGS] for name, steps in SPLITS.items()}, separators=(",", ":")) + "\n")


main()
