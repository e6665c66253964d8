"""A resumed run equals one never stopped, bit for bit; damage is seen, said and survived."""

import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.train.support import resumable
from tests.train.support.checkpoints import assert_identical, at, saved
from tests.train.support.resumable import At, bytes_iterator, fresh_state, grain_iterator, plain_iterator, run
from train.errors import RunFailed, UsageError
from train.hooks import EarlyStopping
from train.parallel import data_parallel
from train.records.checkpoint import Checkpointer
from train.records.manifest import find_damage
from train.state import create_state
from train.step import build_train_step


class Killed(BaseException):
    """Ends a run as abruptly as a signal would."""


def blank(state):
    """A state of the same layout with none of the values."""

    def leaf(x):
        if isinstance(x, int):
            return 0
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            other = jax.random.key(99, impl=jax.random.key_impl(x))
            return jnp.broadcast_to(other, x.shape) if x.shape else other
        zeros = np.zeros(x.shape, x.dtype)
        return zeros if isinstance(x, np.ndarray) else jax.device_put(zeros, x.sharding if x.committed else None)

    return jax.tree.map(leaf, state)


def kill():
    raise Killed


def assert_same_run(whole, resumed, whole_dir, resumed_dir):
    assert_identical(whole, resumed)
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (whole_dir / name).read_bytes() == (resumed_dir / name).read_bytes()


@pytest.mark.parametrize("make_iterator", [plain_iterator, bytes_iterator, grain_iterator])
@pytest.mark.parametrize("killed_at", [7, 12, 15])
def test_resumed_run_is_bit_identical(tmp_path, make_iterator, killed_at):
    whole, _ = run(tmp_path / "whole", make_iterator)
    with pytest.raises(Killed):
        run(tmp_path / "cut", make_iterator, hooks=(At(killed_at, kill),))
    resumed, iterator = run(tmp_path / "cut", make_iterator)
    assert int(resumed.step) == 20
    assert int(resumed.state["count"]) == 20 * 8
    assert_same_run(whole, resumed, tmp_path / "whole", tmp_path / "cut")
    if make_iterator is plain_iterator:
        start = killed_at // 6 * 6 if killed_at % 6 else killed_at - 6  # killed before the checkpoint of its own step
        order = [np.random.default_rng(p).choice(32, 8, replace=False).tolist() for p in range(start, 20)]
        assert iterator.seen == order


def test_a_process_killed_by_the_system_goes_on(tmp_path):
    whole, _ = run(tmp_path / "whole", plain_iterator)
    child = subprocess.run(
        [sys.executable, "-m", "tests.train.support.resumable", str(tmp_path / "cut"), "15"],
        cwd=Path(resumable.__file__).parents[3],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        timeout=300,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert sorted(p.name for p in (tmp_path / "cut/checkpoints").iterdir() if not p.name.startswith(".")) == ["12", "6"]
    resumed, _ = run(tmp_path / "cut", plain_iterator)
    assert_same_run(whole, resumed, tmp_path / "whole", tmp_path / "cut")


def test_a_finished_run_is_not_run_again(tmp_path):
    state, _ = run(tmp_path, plain_iterator)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again, iterator = run(tmp_path, plain_iterator)
    assert_identical(state, again)
    assert iterator.seen == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def largest_file(folder):
    return max((p for p in (folder / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder):
    os.truncate(largest_file(folder), 10)


def delete_file(folder):
    largest_file(folder).unlink()


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def flip_bit(folder):
    path = largest_file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_manifest(folder):
    (folder / "manifest.json").write_text("{")


def delete_manifest(folder):
    (folder / "manifest.json").unlink()


DAMAGE = [truncate, delete_file, empty, flip_bit, damage_manifest, delete_manifest]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_falls_back(tmp_path, capsys, damage):
    damage(saved(tmp_path) / "3")
    with Checkpointer(tmp_path, every=1) as checkpointer:
        state = checkpointer.restore_latest(fresh_state())
        assert_identical(state, at(2))
        assert checkpointer.latest_step == 2
        message = capsys.readouterr().err
        assert message.startswith("warning: checkpoint ")
        assert "/3 is damaged" in message
        checkpointer.save(3, at(3))  # the damaged one does not stand in the way
    assert_identical(Checkpointer(tmp_path).restore_latest(fresh_state()), at(3))
    assert (tmp_path / "unreadable-3").is_dir()


@pytest.mark.parametrize("damage", DAMAGE)
def test_all_damaged_says_what_to_do(tmp_path, damage):
    for step in (1, 2, 3):
        damage(saved(tmp_path) / str(step)) if step == 1 else damage(tmp_path / str(step))
    with pytest.raises(UsageError, match=r"none of the 3 checkpoints .* delete it to start again"):
        Checkpointer(tmp_path).restore_latest(fresh_state())


def test_a_changed_number_that_still_reads_well_is_noticed(tmp_path, capsys):
    run(tmp_path, plain_iterator, every=10)
    path = tmp_path / "checkpoints" / "20" / "meta" / "metadata"
    text = path.read_text()
    assert text.count('"position": 20') == 1
    path.write_text(text.replace('"position": 20', '"position": 21'))
    iterator = plain_iterator()
    state = Checkpointer(tmp_path / "checkpoints").restore_latest(fresh_state(), iterator)
    assert (int(state.step), iterator.position) == (10, 10)
    assert "20 is damaged (meta/metadata was changed)" in capsys.readouterr().err


def test_a_stray_numbered_folder_is_no_checkpoint(tmp_path, capsys):
    (saved(tmp_path) / "99").mkdir()
    assert_identical(Checkpointer(tmp_path).restore_latest(fresh_state()), at(3))
    assert "99 is damaged (manifest.json is missing)" in capsys.readouterr().err


def test_a_save_that_was_cut_off_is_not_damage(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("train.records.checkpoint.write_manifest", lambda folder: kill())
    with pytest.raises(Killed):
        Checkpointer(tmp_path).save(5, at(5))
    monkeypatch.undo()
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore_latest(fresh_state()) is None  # the first save of a run: start again
        assert "5 was never finished" in capsys.readouterr().err
        checkpointer.save(5, at(5))
    assert_identical(Checkpointer(tmp_path).restore_latest(fresh_state()), at(5))


def test_the_older_ones_outlive_a_save_that_was_cut_off(tmp_path, monkeypatch):
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(1, at(1))
        monkeypatch.setattr("train.records.checkpoint.write_manifest", lambda folder: kill())
        with pytest.raises(Killed):
            checkpointer.save(2, at(2))
    assert_identical(Checkpointer(tmp_path).restore_latest(fresh_state()), at(1))


def test_nothing_saved_yet(tmp_path):
    assert Checkpointer(tmp_path / "none").restore_latest(fresh_state()) is None
    assert not (tmp_path / "none").exists()


def test_keeps_the_newest(tmp_path):
    with Checkpointer(tmp_path, every=1, keep=2) as checkpointer:
        for step in (3, 4, 10, 11):
            checkpointer.save(step, at(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "10", "11"]


def test_later_checkpoints_are_not_overrun(tmp_path):
    saved(tmp_path)
    with pytest.raises(UsageError, match="up to step 3, but this run is at step 2; restore them first"):
        Checkpointer(tmp_path).save(2, at(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.replace(params={**s.params, "w": jnp.zeros(4)}),
            r"\.params\['w'\] as float32\[3\], .* float32\[4\]",
        ),
        (
            lambda s: s.replace(params={**s.params, "b": jnp.zeros(())}),
            r"\.params\['b'\] as bfloat16\[\], .* float32\[\]",
        ),
        (lambda s: s.replace(params={**s.params, "v": jnp.zeros(1)}), r"checkpoint has no \.params\['v'\]"),
        (lambda s: s.replace(ema=None), r"checkpoint has \.ema\['b'\], which this state does not have"),
        (
            lambda s: s.replace(opt_state=optax.sgd(0.1, momentum=0.9).init(s.params)),
            r"checkpoint has no \.opt_state\[0\]\.trace",
        ),
        (lambda s: s.replace(key=jax.random.key(0, impl="rbg")), r"\.key as key<fry>\[\], .* key<rbg>\[\]"),
    ],
)
def test_another_structure_is_refused(tmp_path, change, message):
    saved(tmp_path)
    with pytest.raises(UsageError, match=message):
        Checkpointer(tmp_path).restore_latest(change(fresh_state()))


def test_every_kind_of_leaf_survives(tmp_path):
    tree = {
        "half/a.b": jnp.array([1.5, jnp.nan, -0.0], jnp.bfloat16),
        "nested": ({"a": jnp.float16(2)}, [jnp.array([True, False])]),
        "complex": jnp.array([1 + 2j], jnp.complex64),
        "empty": jnp.zeros((0, 3)),
        "numpy": np.array([2**40], np.int64),
        "python": 3,
        "keys": jax.random.split(jax.random.key(1), 2),
        "rbg": jax.random.key(1, impl="rbg"),
    }
    state = create_state({}, optax.sgd(0.1), key=1).replace(params=tree)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
    restored = Checkpointer(tmp_path).restore_latest(blank(state))
    assert restored.params["python"] == 3
    assert type(restored.params["python"]) is int
    assert isinstance(restored.params["numpy"], np.ndarray)
    without = [s.replace(params={k: v for k, v in s.params.items() if k != "python"}) for s in (state, restored)]
    assert_identical(*without)
    draw = [jax.random.normal(s.params["rbg"], (3,)) for s in (state, restored)]
    np.testing.assert_array_equal(*draw)


def test_arrays_return_to_where_they_were(tmp_path):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    state = fresh_state().replace(params={"w": jax.device_put(jnp.arange(16.0), split), "b": jnp.ones(2)})
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
    restored = Checkpointer(tmp_path).restore_latest(blank(state))
    assert restored.params["w"].sharding == split
    assert not restored.params["b"].committed  # or a step on other devices would refuse it
    assert_identical(restored, state)


@pytest.mark.parametrize("backend", ["jit", "pmap", "shard_map"])
def test_resumes_on_several_devices(tmp_path, backend):
    step = data_parallel(
        build_train_step(resumable.objective, resumable.optimizer(), loss_weights={"mse": 1.0}), backend=backend
    )
    iterator = plain_iterator()

    def advance(state):
        for _ in range(2):
            state, metrics = step(state, next(iterator))
            jax.block_until_ready(metrics)
        return state

    with Checkpointer(tmp_path, iterator=iterator) as checkpointer:
        state = advance(fresh_state())
        checkpointer.save(2, state)
        whole = advance(state)
        assert_identical(advance(checkpointer.restore_latest(fresh_state())), whole)


def test_config_of_another_run_is_refused(tmp_path):
    with Checkpointer(tmp_path, config={"lr": 0.1, "data": {"name": "digits"}}) as checkpointer:
        checkpointer.save(1, at(1))
    Checkpointer(tmp_path, config={"lr": 0.1, "data": {"name": "digits"}}).restore_latest(fresh_state())
    with pytest.raises(
        UsageError, match=r"another config: lr was 0\.1 and is now 0\.2; data\.name was \"digits\" and is now \"mnist\""
    ):
        Checkpointer(tmp_path, config={"lr": 0.2, "data": {"name": "mnist"}}).restore_latest(fresh_state())


def test_iterators_that_cannot_be_put_back_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"expected iterator with get_state and set_state .* got generator"):
        Checkpointer(tmp_path, iterator=(x for x in ()))

    class Odd(resumable.ArrayIterator):
        def get_state(self):
            return {"position": (1, 2)}  # JSON would give a list back

    with pytest.raises(UsageError, match=r"iterator\.get_state\(\) to give bytes or JSON"):
        Checkpointer(tmp_path, iterator=Odd(*resumable.arrays(), size=8)).save(1, at(1))
    saved(tmp_path)
    with pytest.raises(UsageError, match="holds no position in the data"):
        Checkpointer(tmp_path).restore_latest(fresh_state(), plain_iterator())


def test_position_can_be_left_alone(tmp_path):
    run(tmp_path, plain_iterator)
    assert int(Checkpointer(tmp_path / "checkpoints").restore_latest(fresh_state()).step) == 20


def test_refused_position_is_explained(tmp_path):
    run(tmp_path, bytes_iterator)

    class Picky(resumable.ArrayIterator):
        def set_state(self, state):
            raise ValueError("another dataset")

    with pytest.raises(UsageError, match=r"refuses the position .* \(another dataset\)"):
        Checkpointer(tmp_path / "checkpoints").restore_latest(fresh_state(), Picky(*resumable.arrays(), size=8))


def test_early_stopping_remembers(tmp_path):
    stopping = EarlyStopping("loss", patience=3, every=1)
    for value in (2.0, 2.5, 2.5):
        stopping(1, None, {"loss": value})
    with Checkpointer(tmp_path, extras={"stopping": stopping}) as checkpointer:
        checkpointer.save(1, at(1))
    again = EarlyStopping("loss", patience=3, every=1)
    Checkpointer(tmp_path, extras={"stopping": again}).restore_latest(fresh_state())
    assert (again.best, again.waited, again.stopped) == (2.0, 2, False)
    with pytest.raises(UsageError, match="holds nothing for other"):
        Checkpointer(tmp_path, extras={"other": again}).restore_latest(fresh_state())


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot save checkpoints in .* choose a place that can be written"):
        Checkpointer(tmp_path / "file" / "checkpoints").save(1, at(1))


# Orbax leaves its event loop behind when a write fails; Python complains when that is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_full_disk_keeps_what_was_saved(tmp_path):
    saved(tmp_path, (1,))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    checkpointer = Checkpointer(tmp_path)
    try:
        checkpointer.restore_latest(fresh_state())
        big = at(2).replace(frozen=jnp.asarray(np.random.default_rng(0).normal(size=200_000)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # no file may grow larger
        with pytest.raises(RunFailed, match=r"step 2 .* make room .* the checkpoint of step 1 is intact"):
            checkpointer.save(2, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
        checkpointer.close()
        gc.collect()
    assert_identical(Checkpointer(tmp_path).restore_latest(fresh_state()), at(1))


def test_manifest_lists_every_file(tmp_path):
    folder = saved(tmp_path, (1,)) / "1"
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(json.loads((folder / "manifest.json").read_text())) == names


@pytest.mark.parametrize("arguments", [{"every": 0}, {"keep": 0}])
def test_bad_arguments(tmp_path, arguments):
    with pytest.raises(UsageError, match="at least 1"):
        Checkpointer(tmp_path, **arguments)


def flip_one_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm", [flip_one_bit, lambda path: os.truncate(path, 3), Path.unlink, lambda p: os.truncate(p, 0)]
)
def test_harm_to_any_file_is_noticed(tmp_path, harm):
    folder = saved(tmp_path / "good", (1,)) / "1"
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert len(names) > 5
    for name in names:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        harm(copy / name)
        assert find_damage(copy) is not None, name
        shutil.rmtree(copy)
    assert find_damage(folder) is None


def test_leftover_temporaries_are_no_checkpoints_and_go(tmp_path):
    saved(tmp_path)
    shutil.copytree(tmp_path / "3", tmp_path / "4.orbax-checkpoint-tmp")
    shutil.copytree(tmp_path / "1", tmp_path / ".deleting" / "0")
    (tmp_path / ".saving.json.123.tmp").write_text("{")
    with Checkpointer(tmp_path, every=1, keep=9) as checkpointer:
        assert_identical(checkpointer.restore_latest(fresh_state()), at(3))
        checkpointer.save(4, at(4))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "1", "2", "3", "4"]
    assert_identical(Checkpointer(tmp_path).restore_latest(fresh_state()), at(4))


def test_changed_data_and_dtype_are_refused_unless_allowed(tmp_path, capsys):
    with Checkpointer(tmp_path, data="a", config={"seed": 0}) as checkpointer:
        checkpointer.save(1, at(1))
    half = fresh_state().replace(params={**fresh_state().params, "w": jnp.zeros(3, jnp.float16)})
    with pytest.raises(UsageError, match=r'data was "a" and is now "b"; .* --allow-changed data'):
        Checkpointer(tmp_path, data="b").restore_latest(fresh_state())
    with pytest.raises(UsageError, match=r"seed was 0 and is now 1; .* --allow-changed seed"):
        Checkpointer(tmp_path, config={"seed": 1}, allow_changed=["data"]).restore_latest(fresh_state())
    with pytest.raises(UsageError, match=r"as float32\[3\], .* float16\[3\]; .* --allow-changed dtype"):
        Checkpointer(tmp_path, data="a").restore_latest(half)
    allowed = Checkpointer(tmp_path, data="b", config={"seed": 1}, allow_changed=["data", "seed", "dtype"])
    restored = allowed.restore_latest(half)
    assert restored.params["w"].dtype == jnp.float16
    assert restored.params["w"].tolist() == [1.0, 1.0, 1.0]
    assert 'continues with data changed from "a" to "b"' in capsys.readouterr().err
