from kubediffusion.cli import bench


def test_the_benchmarks_are_found_from_any_folder_of_a_checkout(tmp_path):
    program = tmp_path / "tests" / "bench" / "run.py"
    program.parent.mkdir(parents=True)
    program.touch()
    folder = tmp_path / "docs" / "how-to"
    folder.mkdir(parents=True)
    assert bench.find_program(folder, beside=tmp_path) == program


def test_an_installed_package_has_none(tmp_path):
    assert bench.find_program(tmp_path, beside=tmp_path / "site-packages") is None
