"""A Hugging Face directory: its configuration and its safetensors, by their headers alone, and what is refused by name.

No weight is read here. What is refused would otherwise fail late, or serve wrong scores: each message says what was found and how
to get from there to a directory that can be served.
"""
import json
import pathlib
import re
import struct
import zipfile

from convert_errors import Refused

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEADER_LIMIT = 100_000_000
SERVED_TYPES = ("F32", "F16", "BF16")
MERGE = "merge it: PeftModel.from_pretrained(base, DIR).merge_and_unload().save_pretrained(OUT), and convert OUT"
SAVE = "load it with the class that trained it and call model.save_pretrained(OUT), then convert OUT"
# Files of training frameworks in which every process keeps its own part of each tensor.
PARTS = re.compile(r"model-rank-\d+.*\.safetensors|mp_rank_\d+.*|zero_pp_rank_\d+.*|.*\.distcp|.*[-_.]tp[-_]?\d+.*\.safetensors|global_step\d+")
# Tensors of a head beside, or instead of, the one head of a causal language model.
HEADS = re.compile(r"(.*\.)?(lm_heads|level_heads|output_heads|medusa_head|medusa_heads|heads|decoder_mlp|mtp)\.\d+\..*")


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Refused(f"{path}: not JSON: {error}") from None


def safetensors_header(path):
    """-> {tensor name: (type, shape)}"""
    with open(path, "rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else HEADER_LIMIT + 1
        if length > HEADER_LIMIT:
            raise Refused(f"{path}: not a safetensors file (or a Git LFS pointer: run `git lfs pull`)")
        text = f.read(length)
    try:
        return {name: (facts["dtype"], facts["shape"]) for name, facts in json.loads(text).items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{path}: its header is not that of a safetensors file: {error}") from None


class Source:
    """`folder`, `config` (dict), `weights` (file names), `tensors` {name: (type, shape)}."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        if not self.folder.is_dir():
            refuse_file(self.folder)
        names = sorted(entry.name for entry in self.folder.iterdir())
        refuse_adapters(self.folder, names)
        refuse_parts(self.folder, names)
        self.weights = self._weights(names)
        self.config = read_json(self.folder / "config.json")
        if not isinstance(self.config.get("model_type"), str):
            raise Refused(f"{self.folder}/config.json: no `model_type`: expected the file that save_pretrained wrote")
        self.tensors = {}
        for name in self.weights:
            if name.endswith(".safetensors"):
                self.tensors |= safetensors_header(self.folder / name)
        refuse_config(self.folder, self.config)
        refuse_tensors(self.folder, self.tensors)

    def _weights(self, names):
        if INDEX in names:
            shards = sorted(set(read_json(self.folder / INDEX).get("weight_map", {}).values()))
            for shard in shards:
                if shard not in names:
                    raise Refused(f"{self.folder}: {INDEX} names {shard}, which is not there: download it again")
            return [INDEX, *shards]
        if SINGLE in names:
            return [SINGLE]
        refuse_foreign_weights(self.folder, names)

    @property
    def encoder_decoder(self):
        return bool(self.config.get("is_encoder_decoder", self.config["model_type"] in ("t5", "switch_transformers", "oxygenrec")))

    @property
    def vocabulary_size(self):
        size = self.config.get("vocab_size")
        if not isinstance(size, int):
            raise Refused(f"{self.folder}/config.json: `vocab_size` is {size!r}, expected a number")
        return size


def refuse_file(path):
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin") and path.is_file():
        refuse_foreign_weights(path.parent, [path.name])
    raise Refused(f"{path}: not a directory; expected what save_pretrained wrote (config.json and safetensors)")


def refuse_adapters(folder, names):
    if "adapter_config.json" in names or "adapter_model.safetensors" in names:
        raise Refused(f"{folder}: an unmerged LoRA adapter (adapter_config.json): it has no weights of its own; {MERGE}")


def refuse_parts(folder, names):
    parts = [name for name in names if PARTS.fullmatch(name)]
    if parts:
        raise Refused(f"{folder}: {parts[0]} is one process's part of every tensor (tensor parallelism, ZeRO or FSDP): gather them with the "
                      "framework's own tool (Megatron: convert to HF; DeepSpeed: zero_to_fp32.py; FSDP: merge-weights), and convert the result")


def refuse_foreign_weights(folder, names):
    """There are no safetensors: says what there is instead."""
    pick = lambda *suffixes: next((name for name in names if name.endswith(suffixes)), None)
    if name := pick(".ckpt", ".pt", ".pth"):
        kind = "a Lightning checkpoint" if is_lightning(folder / name) else "a training checkpoint"
        raise Refused(f"{folder / name}: {kind}: model, optimizer and code in one pickle; {SAVE} "
                      "(Lightning: Module.load_from_checkpoint(FILE).model.save_pretrained(OUT))")
    if name := pick(".bin", ".bin.index.json"):
        raise Refused(f"{folder / name}: pickled weights, which run code when they are read; {SAVE} (it writes safetensors): "
                      "AutoModel.from_pretrained(DIR).save_pretrained(OUT, safe_serialization=True)")
    if name := pick(".gguf"):
        raise Refused(f"{folder / name}: GGUF, a quantised copy: convert the model that it was made from")
    if name := pick(".safetensors"):
        raise Refused(f"{folder}: {name} without {INDEX}: shards need their index; download it too")
    raise Refused(f"{folder}: no {SINGLE}: expected what save_pretrained wrote")


def is_lightning(path):
    """Whether torch's archive, or the older plain pickle, carries Lightning's mark."""
    mark = b"pytorch-lightning_version"
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            return any(mark in archive.read(name) for name in pickles)
    except zipfile.BadZipFile:
        with open(path, "rb") as f:
            return mark in f.read(1 << 20)


def refuse_config(folder, config):
    where = f"{folder}/config.json"
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "of unknown kind") if isinstance(quantised, dict) else "of unknown kind"
        raise Refused(f"{where}: a quantised checkpoint ({method}): convert the original in f32, f16 or bf16; Sidereal quantises by itself")
    heads = next((key for key in ("medusa_num_heads", "num_medusa_heads", "num_lm_heads", "n_heads_out") if config.get(key, 0) not in (0, 1)), None)
    if heads or any("medusa" in name.lower() for name in config.get("architectures") or []):
        raise parallel_heads(where, heads or "architectures")


def parallel_heads(where, what):
    return Refused(f"{where}: `{what}`: several output heads, a parallel-head model (GRID, Medusa): its head of a level is no part of what "
                   "save_pretrained of a T5 or a causal language model writes; export the model with one head over the whole vocabulary, or write "
                   "the manifest by hand if it has one head a level (docs/export-format.md, `level_head`)")


def refuse_tensors(folder, tensors):
    for name, (kind, _) in tensors.items():
        if ".lora_" in name or name.startswith("lora_"):
            raise Refused(f"{folder}: tensor {name}: unmerged LoRA; {MERGE}")
        if HEADS.fullmatch(name):
            raise parallel_heads(folder, name)
        if name.endswith((".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".absmax")):
            raise Refused(f"{folder}: tensor {name}: quantised weights; convert the original in f32, f16 or bf16")
        if name.endswith(".weight") and kind not in SERVED_TYPES:
            raise Refused(f"{folder}: tensor {name} is {kind}: {', '.join(SERVED_TYPES)} are served; save the model in one of them")
