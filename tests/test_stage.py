"""The shell around a stage: exit codes, one line of error, atomic outputs, one writer, finite metrics."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from medcot import stage
from medcot.errors import DataError, MachineError, TrainingError, one_line
from medcot.stage import atomic_dir, atomic_file, run_stage, stage_lock, write_metrics


def fail_with(error: BaseException) -> object:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("a.json:3", "broken", "mend it", got="x"), 2),
        (MachineError("b", "no GPU", "use one"), 3),
        (TrainingError("c", "infinite", "lower it"), 4),
        (PermissionError(13, "Permission denied", "/data/x"), 3),
        (OSError(28, "No space left on device", "/data/y"), 3),
        (OSError(27, "File too large", "/data/z"), 3),
        (RuntimeError("a bug"), 4),
        (KeyboardInterrupt(), 130),
        (stage.Terminated(), 143),
    ],
)
def test_every_way_to_fail_has_its_exit_code(in_tmp: Path, error: BaseException, code: int) -> None:
    assert run_stage("x", fail_with(error)) == code  # type: ignore[arg-type]


def test_an_expected_error_is_one_line_and_a_bug_keeps_its_traceback(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_stage("x", fail_with(DataError("行.json:3", "broken", "mend it", got="值\n2")))  # type: ignore[arg-type]
    assert capsys.readouterr().err == "error: 行.json:3: broken, got 值\\n2; mend it\n"
    run_stage("x", fail_with(RuntimeError("a bug")))  # type: ignore[arg-type]
    assert "Traceback" in capsys.readouterr().err


def test_under_dvc_the_error_says_how_to_get_the_old_outputs_back(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_STAGE", "x")
    run_stage("x", fail_with(DataError("a", "b", "c")))  # type: ignore[arg-type]
    assert "git checkout metrics dvc.lock && dvc checkout" in capsys.readouterr().err


def test_success_is_zero(in_tmp: Path) -> None:
    assert run_stage("x", lambda: None) == 0


def test_sigterm_releases_the_lock_and_exits_143(in_tmp: Path) -> None:
    code = (
        "import time, sys; from medcot.stage import run_stage; sys.exit(run_stage('x', lambda: (print('go', flush=True), time.sleep(60))))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    assert process.stdout.readline() == b"go\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    process.stdout.close()
    with stage_lock("x"):
        pass


def test_a_second_writer_waits_and_then_stops(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "LOCK_SECONDS", 0.1)
    with stage_lock("x"):
        assert run_stage("x", lambda: None) == 3
    assert run_stage("x", lambda: None) == 0


def test_a_directory_appears_whole_or_not_at_all(in_tmp: Path) -> None:
    final = Path("out")
    with atomic_dir(final) as out:
        (out / "a").write_text("1")
        assert not final.exists()
    with pytest.raises(ValueError, match="half"), atomic_dir(final) as out:
        (out / "a").write_text("2")
        raise ValueError("half")
    assert (final / "a").read_text() == "1"
    assert [p.name for p in Path().iterdir() if p.name.startswith(".out")] == []


def test_a_crash_between_the_two_renames_is_mended_by_the_next_run(in_tmp: Path) -> None:
    previous = Path(".out.previous")
    previous.mkdir()
    (previous / "a").write_text("old")
    with pytest.raises(ValueError, match="again"), atomic_dir(Path("out")):
        raise ValueError("again")
    assert (Path("out") / "a").read_text() == "old"


def test_a_kill_after_the_second_rename_leaves_the_new_output(in_tmp: Path) -> None:
    for name, content in (("out", "new"), (".out.previous", "old")):
        Path(name).mkdir()
        (Path(name) / "a").write_text(content)
    with atomic_dir(Path("out")) as out:
        (out / "a").write_text("newer")
    assert (Path("out") / "a").read_text() == "newer"
    assert not Path(".out.previous").exists()


@pytest.mark.parametrize("name", [".out.previous", ".out.building", "out"])
def test_a_file_or_a_link_where_a_directory_belongs_does_not_wedge_the_stage(in_tmp: Path, name: str) -> None:
    (in_tmp / "elsewhere").mkdir()
    for make in (lambda path: path.write_text("x"), lambda path: path.symlink_to(in_tmp / "elsewhere")):
        for left in ("out", ".out.previous", ".out.building"):
            stage._discard(Path(left))
        make(Path(name))
        for content in ("1", "2"):
            with atomic_dir(Path("out")) as out:
                (out / "a").write_text(content)
        assert (Path("out") / "a").read_text() == "2"
        assert list((in_tmp / "elsewhere").iterdir()) == []


def test_a_missing_file_is_a_bug_with_its_traceback_and_not_a_full_disk(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage("x", lambda: open("absent")) == 4  # type: ignore[arg-type,return-value]  # noqa: PTH123, SIM115
    assert "Traceback" in capsys.readouterr().err


def test_a_file_appears_whole_or_not_at_all(in_tmp: Path) -> None:
    final = Path("dir/文件.txt")
    with atomic_file(final) as out:
        out.write_text("1")
    with pytest.raises(ValueError, match="half"), atomic_file(final) as out:
        out.write_text("2")
        raise ValueError("half")
    assert final.read_text() == "1"
    assert len(list(final.parent.iterdir())) == 1


def test_metrics_are_sorted_rounded_and_versioned(in_tmp: Path) -> None:
    write_metrics(Path("m.json"), {"b": 1 / 3, "a": {"n": 2}, "name": "值"})
    assert json.loads(Path("m.json").read_text()) == {"a": {"n": 2}, "b": 0.33333333, "name": "值", "schema_version": 1}
    assert list(json.loads(Path("m.json").read_text())) == ["a", "b", "name", "schema_version"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], None])
def test_a_metric_that_dvc_cannot_diff_is_refused_and_the_old_file_stays(in_tmp: Path, value: object) -> None:
    write_metrics(Path("m.json"), {"a": 1})
    with pytest.raises(DataError, match=r"m\.json: outer\.a"):
        write_metrics(Path("m.json"), {"outer": {"a": value}})
    assert json.loads(Path("m.json").read_text())["a"] == 1


def test_an_error_is_one_line_and_moves_no_cursor_whatever_its_parts_hold() -> None:
    message = str(DataError("data/病\n例.json", "no such file", "it has a\x1b[2Jb, c\u202ed, 数据\u3000一"))
    assert message == "data/病\\n例.json: no such file; it has a\\x1b[2Jb, c\\u202ed, 数据\u3000一"


def test_a_name_that_is_too_long_is_a_matter_of_the_machine(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage("demo", lambda: Path("x" * 300).touch()) == 3
    assert "File name too long" in capsys.readouterr().err.splitlines()[-1]


def test_an_error_shows_its_value_short_and_on_one_line() -> None:
    assert one_line("a\nb\x00") == "a\\nb\\x00"
    assert len(one_line("长" * 1000)) == 120
