"""Decoding in a process of its own: hangs, deaths and hunger for memory cost one image; nothing else changes."""

from __future__ import annotations

import errno
import gc
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image

from skinvae.errors import JobError
from skinvae.images import isolation
from skinvae.images.decode import Decoded, DecodeSettings, decode
from skinvae.images.isolation import DecoderError, DecoderProcess, decode_isolated
from skinvae.images.isolation_child import KEPT_BYTES, SHARED_BYTES
from skinvae.images.isolation_handle import search_path
from skinvae.records import Status
from tests.hostile.jpeg_bomb import progressive_bomb
from tests.unit.images.test_decode import encode

SETTINGS = DecodeSettings()
QUICK = DecodeSettings(max_seconds=0.5)
BOMB = progressive_bomb(width=16_000, height=3_900)
ROOT = Path(__file__).parents[3]


def picture(seed: int, *, width: int = 60, height: int = 40) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode(Image.fromarray(noise), "JPEG" if seed % 2 else "PNG")


GOOD = [picture(seed) for seed in range(8)]


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    with DecoderProcess() as decoder:
        yield decoder


def answers(decoder: DecoderProcess, images: list[bytes], *, settings: DecodeSettings = SETTINGS) -> list[Decoded]:
    found = list(decoder.decode_all(enumerate(images), size=16, settings=settings))
    assert [key for key, _ in found] == list(range(len(images)))
    return [answer for _, answer in found if answer is not None]


def assert_same(answer: Decoded, data: bytes) -> None:
    expected = decode(data, size=16, settings=SETTINGS)
    assert (answer.status, answer.width, answer.height, answer.error) == (
        expected.status,
        expected.width,
        expected.height,
        expected.error,
    )
    assert (answer.pixels is None) == (expected.pixels is None)
    assert answer.pixels is None or (answer.pixels == expected.pixels).all()


def child_of(decoder: DecoderProcess) -> psutil.Process:
    assert decoder.pid is not None
    return psutil.Process(decoder.pid)


def wait_until_gone(pid: int, *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def test_the_answers_are_those_of_the_process_itself(decoder: DecoderProcess) -> None:
    large = encode(Image.effect_noise((4000, 3000), 60).convert("RGB"), "JPEG")
    assert KEPT_BYTES < 4000 * 3000 * 3
    images = [*GOOD, b"", b"no image", GOOD[1][:400], large, GOOD[0], large, large, large, GOOD[2], large, picture(3)]
    for image, answer in zip(images, answers(decoder, images), strict=True):
        assert_same(answer, image)


def test_pixels_are_the_callers_own(decoder: DecoderProcess) -> None:
    """A square that needs no resize must not be a view of memory that the next image overwrites."""
    squares = [encode(Image.new("RGB", (16, 16), (value, 0, 0)), "PNG") for value in range(40)]
    found = answers(decoder, squares)
    assert [int(one.pixels[0, 0, 0]) for one in found if one.pixels is not None] == list(range(40))


def test_keys_without_bytes_keep_their_place(decoder: DecoderProcess) -> None:
    items = [("end", None), ("a", GOOD[0]), ("end", None), ("end", None), ("b", b""), ("c", GOOD[1]), ("end", None)]
    found = list(decoder.decode_all(items, size=8, settings=SETTINGS))
    assert [key for key, _ in found] == [key for key, _ in items]
    assert [answer is None for _, answer in found] == [data is None for _, data in items]
    assert list(decoder.decode_all([], size=8, settings=SETTINGS)) == []


def test_an_error_of_the_source_comes_behind_what_was_read(decoder: DecoderProcess) -> None:
    def damaged() -> Iterator[tuple[int, bytes]]:
        yield 0, GOOD[0]
        yield 1, GOOD[1]
        raise OSError("cut off")

    run = decoder.decode_all(damaged(), size=8, settings=SETTINGS)
    assert [key for key, _ in (next(run), next(run))] == [0, 1]
    with pytest.raises(OSError, match="cut off"):
        next(run)


def test_an_abandoned_run_leaves_nothing_for_the_next(decoder: DecoderProcess) -> None:
    run = decoder.decode_all(enumerate(GOOD), size=16, settings=SETTINGS)
    next(run)
    assert isinstance(run, Generator)
    run.close()
    for image, answer in zip(GOOD, answers(decoder, GOOD), strict=True):
        assert_same(answer, image)


def test_one_child_serves_every_run(decoder: DecoderProcess) -> None:
    answers(decoder, GOOD)
    pid = decoder.pid
    answers(decoder, GOOD)
    assert decoder.pid == pid


def test_a_hang_costs_one_image_and_its_time(decoder: DecoderProcess) -> None:
    """The bomb takes 12 s of processor time here; it is a legal file, so nothing but a clock can refuse it."""
    started = time.monotonic()
    found = answers(decoder, [GOOD[0], GOOD[1], BOMB, GOOD[2], GOOD[3]], settings=QUICK)
    assert [one.status for one in found] == [Status.OK, Status.OK, Status.TIMEOUT, Status.OK, Status.OK]
    assert found[2].error == "decoding takes more than 0.5 seconds"
    assert time.monotonic() - started < 8
    assert_same(found[4], GOOD[3])


def test_a_child_that_sleeps_is_a_timeout_too(decoder: DecoderProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_PATIENCE_SECONDS", 0.2)
    answers(decoder, [GOOD[0]])
    child_of(decoder).suspend()
    found = answers(decoder, [GOOD[0], GOOD[1]], settings=QUICK)
    assert [one.status for one in found] == [Status.TIMEOUT, Status.OK]


def killer(decoder: DecoderProcess, *, times: int) -> threading.Thread:
    """Kills the child as soon as it is at work on the bomb, `times` times."""

    def kill() -> None:
        killed: set[int] = set()
        deadline = time.monotonic() + 30
        while len(killed) < times and time.monotonic() < deadline:
            time.sleep(0.01)
            pid = decoder.pid
            try:
                if pid is not None and pid not in killed and psutil.Process(pid).memory_info().rss > 100 << 20:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            except (psutil.NoSuchProcess, ProcessLookupError):
                pass

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.parametrize(("times", "expected"), [(1, Status.TIMEOUT), (2, Status.CRASHED)])
def test_a_killed_child_is_forgiven_once(times: int, expected: Status) -> None:
    with DecoderProcess() as decoder:
        thread = killer(decoder, times=times)
        settings = DecodeSettings(max_seconds=1.5)
        found = answers(decoder, [GOOD[0], BOMB, GOOD[1], GOOD[2]], settings=settings)
        thread.join()
        assert [one.status for one in found] == [Status.OK, expected, Status.OK, Status.OK]
        assert expected is not Status.CRASHED or found[1].error == "its decoder ended with SIGKILL, twice"
        assert_same(found[3], GOOD[2])


def test_a_child_that_died_between_runs_is_replaced(decoder: DecoderProcess) -> None:
    answers(decoder, [GOOD[0]])
    first = decoder.pid
    child_of(decoder).kill()
    assert [one.status for one in answers(decoder, GOOD)] == [Status.OK] * len(GOOD)
    assert decoder.pid != first


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
def test_more_memory_than_allowed_is_a_row() -> None:
    large = encode(Image.new("RGB", (4000, 4000)), "PNG")  # 64 MB in Pillow
    with DecoderProcess(memory_bytes=32 << 20) as decoder:
        found = answers(decoder, [GOOD[0], large, GOOD[1]])
        assert [one.status for one in found] == [Status.OK, Status.TOO_LARGE, Status.OK]
        assert found[1].error == "decoding needs more than 32 MiB"
        progressive = encode(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)  # 48 MB of coefficients
        assert answers(decoder, [progressive])[0].status is Status.TOO_LARGE


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_64_megapixels_fit() -> None:
    """The largest image that is allowed, turned on its side so that nothing can be decoded in place."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGBA", (10_000, 6_400), (10, 200, 30, 255)), "PNG", exif=exif, compress_level=1)
    with DecoderProcess() as decoder:
        (found,) = answers(decoder, [data])
        assert (found.status, found.width, found.height) == (Status.OK, 6_400, 10_000)
        assert found.pixels is not None
        assert (found.pixels == (10, 200, 30)).all()
        status = Path(f"/proc/{decoder.pid}/status").read_text(encoding="ascii")
    (peak_kib,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    assert peak_kib << 10 < SHARED_BYTES + isolation.MEMORY_BYTES + (64 << 20)


def test_large_images_give_their_memory_back(decoder: DecoderProcess) -> None:
    large = encode(Image.new("RGB", (5000, 4000)), "JPEG")
    answers(decoder, [large] * 4)
    files = [*decoder._data, *decoder._pixels]
    assert {os.fstat(file.fd).st_size for file in files} == {KEPT_BYTES}


def test_ctrl_c_and_sigterm_are_the_parents_business(decoder: DecoderProcess) -> None:
    answers(decoder, [GOOD[0]])
    child = child_of(decoder)
    assert os.getsid(child.pid) != os.getsid(0), "a terminal's signals reach the session of the parent only"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        child.send_signal(number)
    answers(decoder, GOOD)
    assert decoder.pid == child.pid


def test_close_ends_the_child_and_frees_the_files() -> None:
    gc.collect()
    before = set(os.listdir("/dev/fd"))
    decoder = DecoderProcess()
    answers(decoder, GOOD)
    pid = decoder.pid
    assert pid is not None
    decoder.close()
    assert not psutil.pid_exists(pid)
    assert len(set(os.listdir("/dev/fd"))) <= len(before)


PARENT = """
import sys, time
from skinvae.images.decode import DecodeSettings
from skinvae.images import isolation
run = isolation.decode_isolated([(0, open(sys.argv[1], "rb").read())] * 3, size=8, settings=DecodeSettings())
if sys.argv[2] == "idle":
    list(run)
else:
    import threading
    threading.Thread(target=lambda: list(run), daemon=True).start()
import psutil  # type: ignore[import-untyped]
while not (found := psutil.Process().children()):
    time.sleep(0.01)
print(found[0].pid, flush=True)
if sys.argv[3] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize("end", ["wait", "exit"])
def test_no_child_outlives_its_parent(tmp_path: Path, state: str, end: str) -> None:
    image = tmp_path / "image.jpg"
    # A decoder that is busy when its parent dies notices after the image: this one takes half a second.
    image.write_bytes(
        GOOD[1] if state == "idle" else progressive_bomb(width=4_000, height=4_000, num_refinements=1),
    )
    command = [sys.executable, "-c", PARENT, str(image), state, end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child_pid = int(parent.stdout.readline())
        if end == "wait":
            parent.kill()
        parent.wait(timeout=30)
    wait_until_gone(child_pid)


def _status_in_daemon(results: multiprocessing.SimpleQueue[str]) -> None:
    results.put(str([one.status for _, one in decode_isolated(enumerate(GOOD), size=8, settings=SETTINGS) if one]))


def test_it_works_in_daemonic_processes() -> None:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=_status_in_daemon, args=(results,), daemon=True)
    process.start()
    assert results.get() == str([Status.OK] * len(GOOD))
    process.join()


def test_threads_get_decoders_of_their_own_and_leave_them() -> None:
    found: dict[int, list[Status]] = {}
    together = threading.Barrier(3)

    def work(number: int) -> None:
        run = decode_isolated(enumerate(GOOD * 5), size=8, settings=SETTINGS)
        first = next(run)[1]
        together.wait()
        found[number] = [one.status for one in [first, *(answer for _, answer in run)] if one is not None]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [Status.OK] * 5 * len(GOOD) for number in range(3)}
    pids = {decoder.pid for decoder in isolation._idle}
    assert None not in pids
    assert len(pids) >= 3
    list(decode_isolated([(0, GOOD[0])], size=8, settings=SETTINGS))
    assert {decoder.pid for decoder in isolation._idle} == pids


def test_a_child_that_cannot_start_is_an_error_and_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no module named numpy' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with DecoderProcess() as decoder, pytest.raises(DecoderError, match="code 3 as it started: no module named numpy"):
        answers(decoder, [GOOD[0]])


class NoProcess:
    """Instead of subprocess.Popen: a machine that has no more processes."""

    num_tries = 0

    def __init__(self, *_: object, **__: object) -> None:
        NoProcess.num_tries += 1
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_a_machine_without_processes_ends_the_command_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", NoProcess)
    with DecoderProcess() as decoder:
        gc.collect()
        before = set(os.listdir("/dev/fd"))
        with pytest.raises(JobError, match=r"^the decoding process cannot be started: .*; free .* run the same"):
            answers(decoder, [GOOD[0]])
        assert len(set(os.listdir("/dev/fd"))) == len(before)
    assert NoProcess.num_tries == 3


IN_DOWNLOADS = """
import os, sys
os.chdir(sys.argv[1])
from skinvae.images import isolation
from skinvae.images.decode import DecodeSettings
os.chdir(sys.argv[2])
assert sys.path[0] == ""
with isolation.DecoderProcess() as decoder, open("a.jpg", "rb") as image:
    print([one.status.value for _, one in decoder.decode_all([(0, image.read())], size=8, settings=DecodeSettings())])
    print(os.readlink(f"/proc/{decoder.pid}/cwd") if sys.platform == "linux" else "/")
"""


def test_the_modules_of_a_downloaded_folder_are_not_loaded(tmp_path: Path) -> None:
    """`python -m` and `python -c` both look into the current folder first."""
    for name in ("numpy", "json", "skinvae"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w')")
    (tmp_path / "a.jpg").write_bytes(GOOD[1])
    command = [sys.executable, "-c", IN_DOWNLOADS, str(ROOT), str(tmp_path)]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert said.stdout == "['ok']\n/\n", said.stderr
    assert not (tmp_path / "loaded").exists()


def test_the_child_searches_where_its_parent_does_less_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    for given, expected in (
        (["", "/a", ""], ["/a"]),
        ([here, "/a", "b"], ["/a", f"{here}/b"]),
        ([".", "/a"], ["/a"]),
        (["/a", here], ["/a", here]),
        ([], []),
    ):
        monkeypatch.setattr(sys, "path", given)
        assert search_path() == expected


def test_the_child_gets_no_credentials(decoder: DecoderProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with DecoderProcess() as fresh:
        answers(fresh, [GOOD[0]])
        assert "AWS_SECRET_ACCESS_KEY" not in child_of(fresh).environ()


def test_the_child_loads_neither_torch_nor_pyarrow() -> None:
    program = "import sys, skinvae.images.isolation_child; print({'torch', 'pyarrow', 'pydantic'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


def test_frames_are_noted_across_the_line(decoder: DecoderProcess) -> None:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    (found,) = answers(decoder, [stream.getvalue()])
    assert (found.status, found.error) == (Status.OK, "first of 3 frames")
