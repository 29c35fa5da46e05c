import json
import subprocess
import sys

import pytest

from kubediffusion.cli import __main__ as cli
from kubediffusion.cli import commands, exits


def test_help_lists_every_command_and_the_exit_codes(capsys):
    assert cli.run(["--help"]) == exits.ExitCode.OK
    text = capsys.readouterr().out
    for name, source in commands.COMMANDS.items():
        assert f"  {name} " in text
        assert source.summary in text
    assert "130  interrupted" in text


@pytest.mark.parametrize(
    "words",
    [
        *([name] for name in commands.COMMANDS),
        ["worker", "start"],
        ["worker", "stop"],
    ],
    ids=" ".join,
)
def test_every_command_explains_itself(words, capsys):
    assert cli.run([*words, "--help"]) == exits.ExitCode.OK
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: kubediffusion {' '.join(words)}")
    assert "--help" in text


def test_help_imports_nothing_heavy():
    program = (
        "import json, sys; from kubediffusion.cli import __main__ as cli; cli.run(['--help']);"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr)}
    assert not loaded & {"torch", "diffusers", "grpc", "google", "rich", "numpy", "PIL"}


def test_an_unknown_command_is_told_the_nearest_ones(capsys):
    assert cli.run(["wrokers"]) == exits.ExitCode.INVALID
    assert "Did you mean workers or worker?" in capsys.readouterr().err


def test_an_unknown_option_is_told_the_nearest_one(capsys):
    assert cli.run(["list", "--stat", "running"]) == exits.ExitCode.INVALID
    assert "--state" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["watch", "fetch", "cancel", "pause", "resume", "checkpoint"])
def test_an_id_with_a_slash_is_refused_before_a_worker_is_asked(command, capsys, tmp_path):
    assert cli.run([command, "a/b", "--registry", str(tmp_path)]) == exits.ExitCode.INVALID
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert "a/b" in error


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["watch", "cat"], ["fetch", "cat"], ["pause", "cat"], ["drain", "worker-1"]],
)
def test_an_empty_registry_is_told_with_a_way_out(arguments, capsys, tmp_path):
    code = cli.run([*arguments, "--registry", str(tmp_path)])
    assert code == exits.ExitCode.UNREACHABLE
    assert "kubediffusion worker start" in capsys.readouterr().err


def test_no_worker_is_an_empty_list_for_scripts(capsys, tmp_path):
    code = cli.run(["workers", "--json", "--registry", str(tmp_path)])
    assert code == exits.ExitCode.UNREACHABLE
    assert json.loads(capsys.readouterr().out) == []


def test_an_address_that_cannot_be_read_is_refused(capsys):
    assert cli.run(["workers", "--workers", "nonsense"]) == exits.ExitCode.INVALID
    assert "write host:port or unix:/path" in capsys.readouterr().err


def test_certificate_files_go_together(capsys, tmp_path):
    certificate = tmp_path / "cert.pem"
    certificate.touch()
    assert cli.run(["workers", "--tls-cert", str(certificate)]) == exits.ExitCode.INVALID
    assert "go together" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_completion_prints_a_script_for_the_shell(shell, capsys):
    assert cli.run(["completion", shell]) == exits.ExitCode.OK
    assert "_KUBEDIFFUSION_COMPLETE" in capsys.readouterr().out


def test_the_version_is_told(capsys):
    assert cli.run(["--version"]) == exits.ExitCode.OK
    assert capsys.readouterr().out.startswith("kubediffusion ")


def test_stopping_a_worker_that_is_not_there_names_it(capsys, tmp_path):
    code = cli.run(["worker", "stop", "worker-9", "--registry", str(tmp_path)])
    assert code == exits.ExitCode.INVALID
    assert "worker-9" in capsys.readouterr().err
