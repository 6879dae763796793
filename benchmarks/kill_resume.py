"""Kill a tokenize run with kill -9 at random moments, resume it, and compare with one that was left alone.

Usage: python benchmarks/kill_resume.py IMAGES [--weights DIR] [--kills 10] [--limit N] [--rows 64] [--seed 0]

Each run is killed after a drawn number of records and a drawn part of a record's time, so that together the runs get
about four fifths through the list. Prints one line of JSON; exits with 1 if a byte differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chexmix_cli.core.data.shards import ShardSet, verify_set
from chexmix_cli.core.data.shards.journal import Journal


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
        _run(arguments, folder, "whole").communicate()
        whole_s = time.perf_counter() - started
        kills = [_kill(arguments, folder, draw, len(images), whole_s) for _ in range(arguments.kills)]
        _run(arguments, folder, "killed").communicate()
        whole, killed = _digests(folder / "whole"), _digests(folder / "killed")
        shards = ShardSet.open(folder / "killed")
        verify_set(shards)
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


def _kill(
    arguments: argparse.Namespace, folder: Path, draw: random.Random, num_images: int, whole_s: float
) -> dict[str, int]:
    """Start the run, kill it, and return after how many records that was, and how many were in shards or journal."""
    num_records = draw.randint(1, max(1, round(1.6 * num_images / arguments.kills)))
    process = _run(arguments, folder, "killed")
    assert process.stdout is not None
    seen = 0
    while seen < num_records and process.stdout.readline():
        seen += 1
    time.sleep(draw.uniform(0, whole_s / num_images))
    process.kill()
    process.communicate()
    was_killed = process.returncode == -signal.SIGKILL
    shards = ShardSet.open(folder / "killed", allow_partial=True)
    begun = Journal(folder / "killed").read(len(shards.shards), most=arguments.rows - 1)
    num_finished = shards.num_records + len(begun)
    return {"after": seen, "killed": int(was_killed), "finished": num_finished}


def _run(arguments: argparse.Namespace, folder: Path, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "chexmix_cli", "tokenize", "-", "--quiet", "-o", str(folder / name)]
    command += ["--set", f"shards.rows={arguments.rows}", "--set", f"input.workers={arguments.workers}"]
    command += ["--weights", arguments.weights] if arguments.weights else []
    with (folder / "list").open("rb") as paths:
        return subprocess.Popen(command, stdin=paths, stdout=subprocess.PIPE)


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
