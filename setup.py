"""The one thing that pyproject.toml cannot say: a wheel carries the packaged students, which lie in assets/ here."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STUDENTS = Path("assets", "students")


class WithStudents(build_py):
    """Python files and package data as ever, and the students' adapters as speckd/students."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an installation in place finds them where they are
            for source, target in self._students():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return super().get_outputs(include_bytecode) + [str(target) for _, target in self._students()]

    def _students(self) -> list[tuple[Path, Path]]:
        root = Path(self.build_lib, "speckd", "students")
        files = (path for path in sorted(STUDENTS.rglob("*")) if path.is_file())
        return [(path, root / path.relative_to(STUDENTS)) for path in files]


setup(cmdclass={"build_py": WithStudents})
