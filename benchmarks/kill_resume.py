"""Kill a tokenize run with kill -9 at random moments, resume it, and compare with one that was left alone.

Usage: python benchmarks/kill_resume.py IMAGES [--weights DIR] [--kills 10] [--limit N] [--rows 64] [--seed 0]

The moments are drawn over the time the uninterrupted run took, start-up left out. Prints one line of JSON; exits with 1
if a byte differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chexmix_cli.core.data.shards import ShardSet
from chexmix_cli.core.errors import DataError


def main() -> int:
    """Run it all."""
    arguments = _arguments()
    images = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    images = images[: arguments.limit]
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "list").write_text("".join(f"{image}\n" for image in images))
        started = time.perf_counter()
        process, start_s = _start(arguments, folder, "whole")
        process.wait()
        whole_s = time.perf_counter() - started
        kills = [_kill(arguments, folder, draw, (whole_s - start_s) / 3) for _ in range(arguments.kills)]
        process, _ = _start(arguments, folder, "killed")
        process.wait()
        whole, killed = _digests(folder / "whole"), _digests(folder / "killed")
        shards = ShardSet.open(folder / "killed")
        shards.verify()
        result = {
            "images": len(images),
            "rows": len(shards),
            "shards": len(shards.shards),
            "whole_s": round(whole_s, 1),
            "kills": kills,
            "equal": whole == killed,
        }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["equal"] else 1


def _kill(arguments: argparse.Namespace, folder: Path, draw: random.Random, longest_s: float) -> dict[str, float | int]:
    """Start the run, kill it after a random time of work, and return when that was and what was finished by then."""
    process, _ = _start(arguments, folder, "killed")
    after_s = draw.uniform(0, longest_s)
    time.sleep(after_s)
    process.kill()
    process.wait()
    try:
        num_finished = ShardSet.open(folder / "killed", allow_partial=True).num_records
    except DataError as error:
        sys.stderr.write(f"after a kill: {error}\n")
        num_finished = -1
    return {"after_s": round(after_s, 2), "finished": num_finished}


def _start(arguments: argparse.Namespace, folder: Path, name: str) -> tuple[subprocess.Popen[bytes], float]:
    """Start the run, wait until it works (its folder is there), and return it with the time that took."""
    command = [sys.executable, "-m", "chexmix_cli", "tokenize", "-", "--quiet", "-o", str(folder / name)]
    command += ["--set", f"shards.rows={arguments.rows}", "--set", f"input.workers={arguments.workers}"]
    command += ["--weights", arguments.weights] if arguments.weights else []
    started = time.perf_counter()
    with (folder / "list").open("rb") as paths:
        process = subprocess.Popen(command, stdin=paths, stdout=subprocess.DEVNULL)
    while not (folder / name / "shards.json").exists() and process.poll() is None:
        time.sleep(0.01)
    return process, time.perf_counter() - started


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of pictures")
    parser.add_argument("--weights", help="default: the embedded model")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
