"""What a long run is judged by: a leak is seen in samples and in a real process, noise and sawtooth are none."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

#: Holds a further file and a further megabyte every now and then, or opens and closes.
_WORKER = """
import sys, time
held = []
for _ in range(60):
    file = open(sys.argv[1])
    if sys.argv[2] == "leak":
        held.append((file, b"x" * (1 << 20)))
    else:
        file.close()
    with open(sys.argv[3], "a") as done:
        done.write("1\\n")
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def watching(repository):
    sys.path.insert(0, str(repository / "benchmarks"))
    try:
        import soak_watch

        yield soak_watch
    finally:
        sys.path.remove(str(repository / "benchmarks"))


def _samples(watching, resident, handles=lambda done: 6):
    return [watching.Sample(done, done / 10, resident(done), handles(done), 3, 0, 9) for done in range(0, 10_001, 20)]


def _flat(watching, *figures):
    return {name: one.is_flat for name, one in watching.judge(_samples(watching, *figures)).items()}


def test_noise_a_sawtooth_and_a_slow_begin_are_no_growth(watching):
    draw = random.Random(3)

    def resident(done):
        return 400_000 + min(done, 1500) * 20 + (done % 1000) * 4 + draw.randint(-2000, 2000)

    assert all(_flat(watching, resident, lambda done: 6 + draw.randint(0, 2)).values())


@pytest.mark.parametrize("kib_a_film", [1.5, 3])
def test_a_leak_in_memory_is_growth(watching, kib_a_film):
    draw = random.Random(3)
    found = _flat(watching, lambda done: 400_000 + int(done * kib_a_film) + draw.randint(-2000, 2000))
    assert not found["resident_kib"]
    assert found["handles"]


def test_a_step_between_the_second_and_the_last_fifth_is_growth(watching):
    assert not _flat(watching, lambda done: 400_000 if done < 8000 else 412_000)["resident_kib"]


def test_one_handle_in_two_thousand_films_is_growth(watching):
    assert not _flat(watching, lambda done: 400_000, lambda done: 6 + done // 2000)["handles"]


def test_too_few_samples_are_no_judgement(watching):
    with pytest.raises(ValueError, match="too few"):
        watching.judge([watching.Sample(done, 0.0, 1, 1, 1, 0, 1) for done in (0, 100)])


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at through Linux's /proc")
@pytest.mark.parametrize("way", ["leak", "close"])
def test_a_process_that_leaks_is_seen(watching, tmp_path, way):
    done = tmp_path / "done"
    process = subprocess.Popen([sys.executable, "-c", _WORKER, __file__, way, done])
    samples = watching.watch(process, watching.LineCount(done), lambda: 0, every_s=0.02, stop=lambda _: False)
    assert process.returncode == 0
    assert samples[-1].done >= 55
    growth = watching.judge(samples)
    assert [growth[name].is_flat for name in ("handles", "resident_kib", "anonymous_kib")] == [way == "close"] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at through Linux's /proc")
def test_a_process_is_told_to_stop_once(watching, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    watching.watch(process, lambda: 1, lambda: 0, every_s=0.05, stop=lambda seconds: seconds > 0.2)
    assert process.returncode == -15


def test_the_page_has_every_part(repository):
    text = (repository / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = text.partition("<!-- soak: tools/reliability_tables.py -->\n")[2].partition("<!-- end -->")[0]
    parts = [line.split("`")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    assert parts == ["tokenize", "classify", "generate-report", "serve"]
