"""The network alone, in a process of its own: `python -m benchmarks.alone MODEL --tiles N …`.

Nothing is read, blended or written: random tiles go through the network, in the precision, batch and memory layout that
geounet uses, or (`--as-built`) through the network as its library builds it; one pass after the other with all threads,
or `--passes N` side by side that share the threads. Prints a JSON object: `seconds` for all tiles, and `ready`, the
seconds from the start of the process until the first forward was done.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from typing import Any  # noqa: E402


def forward(model: str, tile: int, batch: int, precision: str, threads: int, *, as_built: bool) -> Callable[[], Any]:
    """Return a function that sends one batch of random tiles through the network."""
    import torch

    from geounet.models.bundle import load_bundle
    from geounet.models.network import load
    from geounet.models.predictor import Predictor

    bundle = load_bundle(model)
    torch.set_num_threads(threads)
    example = torch.randn((batch, len(bundle.card.input.bands), tile, tile), generator=torch.Generator().manual_seed(0))
    if as_built:
        network = load(bundle).eval()
    else:
        predictor = Predictor(bundle, precision=precision, tile=tile, batch=batch, threads=threads)
        network = predictor._members[0].network
        example = example.contiguous(memory_format=torch.channels_last)

    def once() -> Any:
        if torch.get_num_threads() != threads:  # a setting of each Python thread
            torch.set_num_threads(threads)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return network(example)

    return once


def timed(once: Callable[[], Any], forwards: int, passes: int) -> float:
    """Return the seconds that a number of forwards take, `passes` of them side by side."""
    with ThreadPoolExecutor(passes) as pool:
        for _ in pool.map(lambda _: once(), range(passes)):  # each thread once before it counts
            pass
        started = time.perf_counter()
        for _ in pool.map(lambda _: once(), range(forwards)):
            pass
        return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tiles", type=int, required=True)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--as-built", action="store_true")
    given = parser.parse_args(arguments)
    threads = max(1, given.threads // given.passes)
    once = forward(given.model, given.tile, given.batch, given.precision, threads, as_built=given.as_built)
    once()
    ready = time.perf_counter() - STARTED
    seconds = timed(once, -(-given.tiles // given.batch), given.passes)
    print(json.dumps({"seconds": seconds, "ready": ready}))


if __name__ == "__main__":
    main()
