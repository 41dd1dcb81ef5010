#!/usr/bin/env python3
"""The engine beside the strong PyTorch peer: same weights, catalogue and requests, interleaved in one run.

    python benches/peers/compare.py --peers PEERS_DIR [--workloads w1s,w1m] [--dtypes f32,bf16] [--hist 1024] [--beam 128]

PEERS_DIR holds the peers (`pt_strong.py`, `bench.py`, `make_export.py`), and the Python that runs this has their packages.
Each round times one peer process and one engine process, batch 1; the table gives medians over rounds and their ratio
(peer / engine: above 1 the engine is faster), and the share of the bf16 or f32 floor of this machine. Engine times are
`total_us` of the replies: everything from the request's arrival to its answer."""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

# FLOP/s of two threads on the machine the targets were measured on; see ../shared/targets.md.
PEAK = {"f32": 236e9, "bf16": 473e9}


def peer_seconds(args, workload, dtype):
    """Minimum seconds a request of one run of the peer."""
    backend = ["--dtype", {"f32": "fp32", "bf16": "bf16"}[dtype], "--backend", "prepack" if dtype == "bf16" else "torch"]
    command = [sys.executable, "bench.py", "--peer", "pt", "--model", workload, *backend, "--hist", str(args.hist),
               "--beam", str(args.beam), "--batch", "1", "--threads", str(args.threads), "--reps", str(args.reps)]
    out = subprocess.run(command, cwd=args.peers, check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])["s"]


def engine_seconds(args, export, dtype):
    """Minimum `total_us` of one engine process that answers the same request several times, one after another."""
    first = open(os.path.join(export, "requests.jsonl")).readline()
    request = json.loads(first)
    lines = "".join(json.dumps({**request, "id": i}) + "\n" for i in range(args.reps + 1))
    command = [args.engine, "recommend", export, "--requests", "-", "--dtype", dtype, "--threads", str(args.threads),
               "--concurrency", "1"]
    out = subprocess.run(command, input=lines, check=True, capture_output=True, text=True).stdout
    replies = [json.loads(line) for line in out.splitlines()]
    return min(reply["timings"]["total_us"] for reply in replies[1:]) / 1e6, replies[0]


def prepare(args, workload):
    """The workload as an export, with its catalogue built."""
    export = os.path.join(args.cache, workload)
    if not os.path.exists(os.path.join(export, "requests.jsonl")):
        subprocess.run([sys.executable, "make_export.py", workload, export, "--hist", str(args.hist), "--beam", str(args.beam),
                        "--batch", "1"], cwd=args.peers, check=True)
    built = os.path.join(export, "catalog.sid")
    if not os.path.exists(built):
        subprocess.run([args.engine, "catalog", "build", "--from", os.path.join(export, "items.csv"), "--out", built], check=True)
    return export


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--engine", default="target/release/sidereal")
    parser.add_argument("--workloads", default="w1s,w1m")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--hist", type=int, default=1024)
    parser.add_argument("--beam", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--cache", default=os.path.join(tempfile.gettempdir(), "sidereal-peer-exports"))
    args = parser.parse_args()
    args.engine, args.peers = os.path.abspath(args.engine), os.path.abspath(args.peers)
    sys.path.insert(0, args.peers)
    from common import flops

    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, {time.strftime('%Y-%m-%d')}, "
          f"{args.hist} history tokens, {args.beam} beams, batch 1, {args.rounds} interleaved rounds of {args.reps}")
    print(f"{'workload':9}{'dtype':6}{'peer s':>9}{'engine s':>10}{'peer/engine':>13}{'of floor':>10}")
    for workload in args.workloads.split(","):
        export = prepare(args, workload)
        for dtype in args.dtypes.split(","):
            peer, engine = [], []
            for _ in range(args.rounds):
                peer.append(peer_seconds(args, workload, dtype))
                engine.append(engine_seconds(args, export, dtype)[0])
            p, e = statistics.median(peer), statistics.median(engine)
            floor = flops(workload, args.hist, args.beam)["total"] / PEAK[dtype]
            print(f"{workload:9}{dtype:6}{p:9.4f}{e:10.4f}{p / e:13.2f}{floor / e:10.0%}", flush=True)


if __name__ == "__main__":
    main()
