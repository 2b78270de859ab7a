"""`stas tune`."""

from __future__ import annotations

import pytest

OPTIONS = (
    *("--objective", "pixel difference:lower", "--axis", "scale=[0.5, 2.0]", "--budget", "26"),
    *("--steps", "1", "--frames", "5", "--size", "64x64", "-o", "r"),
)


@pytest.mark.slow
def test_the_command(run, tmp_path):
    code, out, err = run("tune", *OPTIONS, "--guard", "colourfulness:higher:9", "--budget", "28")
    assert code == 0, err
    assert "scale=0.5" in out and "confirmation" in out and "r/report.html" in out
    assert ("r/tuned.json" in out) == (tmp_path / "r" / "tuned.json").exists()
    code, _, err = run("tune", *OPTIONS, "--budget", "30")
    assert code == 1 and "holds another tune" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none"], 1, "no tune 'none': expected a TOML file or one of quick"),
        (["quick", "--quick"], 2, "not both"),
        (["--axis", "scale=[1"], 2, "expected FIELD=[VALUES] as in TOML"),
        (["--budget", "40", "--axis", "scale=[1.0]"], 1, "there is no objective: say which"),
        (["--objective", "ssim", "--budget", "40"], 1, "which way is better is never guessed"),
        (OPTIONS, 1, "expected 28 or more"),
        (["--quick", "--measure", "nothing:here"], 1, "'nothing:here' can't be loaded"),
    ],
)
def test_bad_input_gets_a_clear_error(run, tmp_path, arguments, code, message):
    found, _, err = run("tune", *arguments)
    assert found == code and message.lower() in err.lower() and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
