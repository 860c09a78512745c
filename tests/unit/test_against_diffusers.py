"""The comparison with diffusers' script, as far as it goes without the script: commands, resuming, failures, the table."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of what is installed

from benchmarks.against_diffusers import compare, matrix, subjects, table, timing, yardstick  # noqa: E402
from benchmarks.against_diffusers.matrix import Matrix, claim  # noqa: E402
from benchmarks.against_diffusers.sides import Matched, Own, Peer, Side  # noqa: E402
from benchmarks.against_diffusers.subjects import Taught  # noqa: E402
from benchmarks.against_diffusers.table import Measure, Result  # noqa: E402
from benchmarks.against_diffusers.terms import ADAPTER, Command, Job, Terms  # noqa: E402
from benchmarks.against_diffusers.yardstick import Figure  # noqa: E402

TERMS = Terms(steps=7, rank=3, batch=2, lr=2e-3, prior=5, resolution=64, threads=1)
PEER = Peer(Path("/peer/python"), Path("/peer/script.py"), Path("/base"))
MATCHED = Matched(Path(sys.executable), "toybox")
OWN = Own(Path(sys.executable), "toybox")


@pytest.fixture
def job(tmp_path) -> Job:
    photos = subjects.drawn([9], 2, 64, tmp_path / "photos")[0]
    return Job(tmp_path / "cell", photos.photos, photos.instance, photos.plain, 11)


def words(command: Command) -> dict[str, str]:
    """The script's options by name; a flag's value is empty."""
    found, name = {}, ""
    for word in command.argv[2:]:
        if word.startswith("--"):
            name = word[2:]
            found[name] = ""
        else:
            found[name] = word
    return found


def recipe(command: Command) -> dict:
    (text,) = command.files.values()
    return json.loads(text)


class TestCommands:
    def test_both_sides_are_told_the_same(self, job):
        peer, ours = words(PEER.command(job, TERMS)), recipe(MATCHED.command(job, TERMS))
        lora, train, prior = ours["adapters"][0], ours["train"], ours["data"]["prior"]
        assert peer["rank"] == str(lora["rank"]) == str(lora["alpha"]) == "3"
        assert peer["max_train_steps"] == str(train["steps"]) == "7"
        assert peer["train_batch_size"] == str(train["batch"]) == "2"
        assert float(peer["learning_rate"]) == train["lr"] == 2e-3
        assert peer["seed"] == str(train["seed"]) == str(prior["seed"]) == "11"
        assert peer["num_class_images"] == str(prior["generate"]) == "5"
        assert peer["instance_data_dir"] == ours["data"]["instance"]["path"] == str(job.photos)
        assert peer["instance_prompt"] == ours["data"]["instance"]["caption"] == job.instance
        assert peer["class_prompt"] == prior["caption"] == job.plain
        assert peer["resolution"] == str(ours["data"]["resolution"]) == "64"
        assert float(peer["prior_loss_weight"]) == ours["task"]["prior_weight"] == 1
        assert "center_crop" in peer
        assert ours["data"]["crop"] == "center"
        assert peer["mixed_precision"] == "no"
        assert train["precision"] == "fp32"

    def test_without_class_pictures_neither_keeps_its_class(self, job):
        bare = replace(TERMS, prior=0)
        peer, ours = words(PEER.command(job, bare)), recipe(MATCHED.command(job, bare))
        assert not {"with_prior_preservation", "class_prompt", "class_data_dir"} & peer.keys()
        assert "prior" not in ours["data"]
        assert "prior_weight" not in ours["task"]
        with pytest.raises(ValueError, match="leave this side out"):
            OWN.command(job, bare)

    def test_a_shared_folder_is_read_by_all_and_drawn_by_none(self, job, tmp_path):
        shared = replace(job, class_pictures=tmp_path / "class")
        assert words(PEER.command(shared, TERMS))["class_data_dir"] == str(tmp_path / "class")
        assert recipe(MATCHED.command(shared, TERMS))["data"]["prior"] == {
            "caption": job.plain,
            "path": str(tmp_path / "class"),
        }
        own = OWN.command(shared, TERMS).argv
        assert f"data.prior.path={json.dumps(str(tmp_path / 'class'))}" in own
        assert "data.prior.generate=null" in own

    @pytest.mark.parametrize("prior", [5, 0])
    def test_the_matched_recipe_is_one(self, job, prior):
        import tuner

        command = MATCHED.command(job, replace(TERMS, prior=prior))
        job.place.mkdir()
        ((path, text),) = command.files.items()
        path.write_text(text)
        read = tuner.load_recipe(path)
        assert read.train.optimizer.weight_decay == 1e-2
        assert read.adapters[0].scale == 1

    @pytest.mark.parametrize("shared", [False, True])
    def test_the_shipped_recipe_takes_the_overrides(self, job, tmp_path, shared):
        import tuner

        argv = OWN.command(replace(job, class_pictures=tmp_path if shared else None), TERMS).argv
        assert argv[1:5] == ("-m", "tuner", "run", "dreambooth_lora")
        read = tuner.load_recipe("dreambooth_lora", argv[5 : argv.index("--rehearse")], rehearse=True)
        (prior,) = read.data.prior
        assert read.backbone.model == "toybox"
        assert read.sample.prompts == ()
        assert read.data.instance[0].path == str(job.photos)
        assert read.train.seed == 11
        assert (prior.path, prior.generate is None) == (str(tmp_path), True) if shared else prior.seed == 11

    def test_the_cache_is_cold_and_the_environment_bare(self, job, tmp_path, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", "/somewhere")
        monkeypatch.setenv("HF_TOKEN", "secret")
        env = timing.environment(3, tmp_path)
        assert {"PYTHONPATH", "HF_TOKEN"} & env.keys() == set()
        assert env["OMP_NUM_THREADS"] == "3"
        assert env["HF_HUB_OFFLINE"] == "1"
        for side in (MATCHED, OWN):
            assert side.command(job, TERMS).env["TUNER_CACHE"].startswith(str(job.place))


def python(code: str, adapter: Path) -> Command:
    return Command((sys.executable, "-S", "-c", code), {}, adapter, {})


class TestTiming:
    def test_what_a_command_took(self, tmp_path):
        command = python(f"import time; time.sleep(0.2); open({str(tmp_path / 'a')!r}, 'w')", tmp_path / "a")
        took = timing.run(command, timing.environment(1, tmp_path), tmp_path / "log", 60)
        assert 0.2 <= took.wall_s < 30
        assert 0 < took.cpu_s <= took.wall_s + 1
        assert (tmp_path / "log").read_text().startswith("$ " + shlex.quote(sys.executable))

    @pytest.mark.parametrize(
        ("code", "told"),
        [
            ("raise SystemExit('no such word')", "exit status 1\n(.|\n)*no such word"),
            ("print('done')", "left no adapter"),
            ("import time; print('begun', flush=True); time.sleep(60)", "not done after 1 s\n(.|\n)*begun"),
        ],
    )
    def test_a_failure_is_shown(self, tmp_path, code, told):
        with pytest.raises(timing.Failed, match=told):
            timing.run(python(code, tmp_path / "adapter"), timing.environment(1, tmp_path), tmp_path / "log", 1)

    def test_nothing_outlives_its_time(self, tmp_path):
        child = f"import time; time.sleep(1.5); open({str(tmp_path / 'late')!r}, 'w')"
        code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
        with pytest.raises(timing.Failed):
            timing.run(python(code, tmp_path / "a"), timing.environment(1, tmp_path), tmp_path / "log", 0.7)
        import time

        time.sleep(1.2)
        assert not (tmp_path / "late").exists()

    def test_a_bar_leaves_its_last_state(self, tmp_path):
        (tmp_path / "log").write_bytes(b"one\n 10%\r 20%\r 30%\nlast\n\n")
        assert timing.last_words(tmp_path / "log") == "one\n 30%\nlast"


@dataclass(frozen=True)
class Stub(Side):
    """A side that writes its adapter, and a line in a ledger; or fails while a file says so."""

    name: str
    ledger: Path
    about: str = "a stub"

    def command(self, job: Job, terms: Terms) -> Command:
        adapter = job.place / "out" / ADAPTER
        line = f"{self.name} {job.photos.name} {job.seed}"
        code = (
            "import os, pathlib, sys; a, l, line = sys.argv[1:]\n"
            "open(l, 'a').write(line + '\\n')\n"
            "if os.path.exists(l + '.broken'): sys.exit('broken: ' + line)\n"
            "pathlib.Path(a).parent.mkdir(parents=True); open(a, 'w')"
        )
        return Command((sys.executable, "-S", "-c", code, str(adapter), str(self.ledger), line), {}, adapter, {})


@pytest.fixture
def small(tmp_path) -> Matrix:
    ledger = tmp_path / "ledger"
    ledger.touch()
    pupils = [Taught(f"s{n}", tmp_path / f"s{n}", "star") for n in range(2)]
    return Matrix(tmp_path / "out", TERMS, pupils, [0, 1], [Stub("one", ledger), Stub("two", ledger)], None, 60)


def silent(_: str) -> None:
    pass


class TestMatrix:
    def test_what_is_done_is_not_done_again(self, small, tmp_path):
        said = []

        def stop(text: str) -> None:
            said.append(text)
            if len(said) == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            small.train(stop)
        first = (tmp_path / "ledger").read_text().splitlines()
        assert len(first) == 3
        small.train(silent)
        small.train(silent)
        lines = (tmp_path / "ledger").read_text().splitlines()
        assert len(lines) == len(set(lines)) == 8
        assert lines[:3] == first
        assert all(cell.adapter.is_file() for cell in small.cells())

    def test_what_was_interrupted_is_done_from_the_start(self, small):
        cell = next(small.cells())
        (cell.place / "out").mkdir(parents=True)  # on which the stub would fail, were it still there
        (cell.place / ".timed.json").write_text("{")
        small.train(silent)
        assert cell.timed is not None

    def test_a_failure_is_kept_shown_and_tried_again(self, small, tmp_path, capsys):
        broken = tmp_path / "ledger.broken"
        broken.touch()
        small.train(silent)
        assert [cell.timed for cell in small.cells()] == [None] * 8
        assert compare.conclude(small, {}, {}) == 1
        shown = capsys.readouterr().out
        assert shown.count("FAILED") == 8
        assert "s1 seed 1 two: exit status 1: broken: two s1 1" in shown
        told = json.loads((small.place / "table.json").read_text())
        assert "broken: one s0 0" in told["failed"][0]["how"]
        broken.unlink()
        small.train(silent)
        assert compare.conclude(small, {}, {}) == 0
        assert "FAILED" not in capsys.readouterr().out

    def test_what_is_not_done_is_said(self, small, capsys):
        assert compare.conclude(small, {}, {}) == 0
        assert "NOT DONE: 8 trainings" in capsys.readouterr().out

    def test_each_side_begins_as_often(self, small):
        cells = list(small.cells())
        assert len({cell.place for cell in cells}) == 8
        first = [cells[index].side.name for index in range(0, 8, 2)]
        assert sorted(first) == ["one", "one", "two", "two"]

    def test_two_comparisons_do_not_mix(self, tmp_path):
        claim(tmp_path, {"terms": {"steps": 7}, "base": "a"})
        claim(tmp_path, {"terms": {"steps": 7}, "base": "a"})
        with pytest.raises(matrix.Changed, match="base: 'a', now 'b'"):
            claim(tmp_path, {"terms": {"steps": 7}, "base": "b"})


@dataclass
class StubMeter:
    """Measures how long an adapter's path is, and counts how often it was asked."""

    key: str = "one"
    asked: int = 0

    def figures(self, adapter: Path, subject: Taught, out: Path) -> list[Figure]:
        self.asked += 1
        return [Figure("fidelity", "fidelity", 1, float(self.asked), 0.5), Figure("drift", "drift", -1, 0.25, None)]


class TestYardstick:
    def test_a_cell_is_measured_once_for_each_meter(self, small):
        small.train(silent)
        meter = StubMeter()
        first = yardstick.measure(small, meter, silent)
        assert yardstick.measure(small, meter, silent) == first
        assert meter.asked == len(first) == 8
        yardstick.measure(small, StubMeter("another"), silent)
        assert yardstick.measure(small, meter, silent) != first
        assert meter.asked == 16

    def test_what_is_not_trained_is_not_measured(self, small):
        assert yardstick.measure(small, StubMeter(), silent) == {}

    def test_a_new_training_is_measured_anew(self, small):
        small.train(silent)
        meter = StubMeter()
        yardstick.measure(small, meter, silent)
        (next(small.cells()).place / matrix.TIMED).unlink()
        small.train(silent)
        yardstick.measure(small, meter, silent)
        assert meter.asked == 9

    def test_the_base_has_a_column_and_no_rival(self, small, capsys):
        small.train(silent)
        compare.conclude(small, {}, yardstick.measure(small, StubMeter(), silent))
        rows = {row["measure"]: row for row in json.loads((small.place / "table.json").read_text())["rows"]}
        assert rows["fidelity"]["sides"]["base"] == {"mean": 0.5, "sd": 0, "n": 2}
        assert rows["drift"]["sides"]["base"]["mean"] is None
        assert rows["drift"]["sides"]["one"]["n"] == 4
        assert "base" not in rows["fidelity"]["against"]
        assert "| fidelity (more is better) | 0.500 ± 0.000 (n=2) |" in capsys.readouterr().out


class TestSubjects:
    def test_photos_are_files_and_stay_the_same(self, tmp_path):
        (first,) = subjects.drawn([3], 3, 64, tmp_path)
        before = {path: path.read_bytes() for path in first.photos.iterdir()}
        assert len(before) == 3
        assert subjects.drawn([3], 3, 64, tmp_path) == [first]
        assert {path: path.read_bytes() for path in first.photos.iterdir()} == before
        with pytest.raises(ValueError, match="another picture"):
            subjects.drawn([3], 3, 96, tmp_path)

    def test_folders_of_photos(self, tmp_path):
        (taught,) = subjects.drawn([3], 1, 64, tmp_path / "drawn")
        for name in ("monster_toy", "cat2"):
            (tmp_path / "real" / name).mkdir(parents=True)
            (tmp_path / "real" / name / "0.png").write_bytes((taught.photos / "00.png").read_bytes())
        found = subjects.photographed(tmp_path / "real")
        assert [subject.instance for subject in found] == ["a photo of sks cat", "a photo of sks monster toy"]
        assert subjects.sides_px(found[0]) == (64, 64)
        (tmp_path / "real" / "cat2" / "notes.txt").touch()
        with pytest.raises(ValueError, match=r"notes\.txt"):
            subjects.photographed(tmp_path / "real")


TIME = Measure("wall_s", "seconds", -1, is_time=True)
GOOD = Measure("fidelity", "fidelity", 1)


def results(measure: Measure, **sides: list[list[float]]) -> list[Result]:
    """Values by side, subject and seed."""
    return [
        Result(f"s{subject}", seed, side, {measure.key: value})
        for side, table_of in sides.items()
        for subject, seeds in enumerate(table_of)
        for seed, value in enumerate(seeds)
    ]


class TestTable:
    def test_a_loss_is_in_the_table(self):
        (row,) = table.rows([GOOD], results(GOOD, peer=[[0.9], [0.8]], ours=[[0.7], [0.6]]), ["peer", "ours"], "peer")
        assert row["against"]["ours"]["verdict"] == "WORSE"
        assert row["against"]["ours"]["won"] == 0
        assert "WORSE, in 0 of 2" in table.markdown([row], ["peer", "ours"], "peer")

    def test_times_are_ratios_of_pairs(self):
        made = results(TIME, peer=[[10, 20]], ours=[[5, 5]])
        against = table.rows([TIME], made, ["peer", "ours"], "peer")[0]["against"]["ours"]
        assert against["ratio"] == pytest.approx(math.sqrt(2 * 4))
        assert against["ratio_range"] == [2, 4]
        assert against["verdict"] == "better, by one subject alone"

    def test_the_error_is_over_subjects(self):
        """Were each cell an independent sample, a thousand seeds of two subjects would make anything certain."""
        made = results(GOOD, peer=[[0.0] * 50, [0.0] * 50], ours=[[1.0] * 50, [0.2] * 50])
        against = table.rows([GOOD], made, ["peer", "ours"], "peer")[0]["against"]["ours"]
        assert against["standard_error"] == pytest.approx(0.4)
        assert against["verdict"] == "better, within chance"

    def test_only_pairs_count(self):
        made = [
            r for r in results(GOOD, peer=[[1.0], [1.0]], ours=[[2.0], [50.0]]) if (r.side, r.subject) != ("peer", "s1")
        ]
        row = table.rows([GOOD], made, ["peer", "ours"], "peer")[0]
        assert row["sides"]["ours"]["n"] == 2
        assert row["against"]["ours"]["n"] == 1
        assert row["against"]["ours"]["difference"] == 1

    def test_a_measure_that_nobody_has_is_no_row(self):
        assert table.rows([GOOD, TIME], results(TIME, peer=[[1.0]]), ["peer"], "peer")[0]["measure"] == "wall_s"

    values = st.lists(st.lists(st.floats(0.01, 100), min_size=2, max_size=3), min_size=2, max_size=4)

    @given(values, values, st.sampled_from([GOOD, TIME]))
    @settings(max_examples=60, deadline=None)
    def test_changing_places_changes_the_sign(self, one, two, measure):
        made = results(measure, one=one, two=two)
        there = table.rows([measure], made, ["one", "two"], "one")[0]["against"]["two"]
        back = table.rows([measure], made, ["one", "two"], "two")[0]["against"]["one"]
        assert there["difference"] == pytest.approx(-back["difference"])
        assert there["standard_error"] == pytest.approx(back["standard_error"])
        assert there["won"] + back["won"] <= there["n"]
        words = {there["verdict"].split(",")[0], back["verdict"].split(",")[0]}
        assert words in ({"better", "WORSE"}, {"equal"})
        if measure.is_time:
            assert there["ratio"] == pytest.approx(1 / back["ratio"])
