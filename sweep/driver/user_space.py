"""A user's own space: a function in a file of theirs."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import optuna

from seqsweep.search_spaces.branches import Space
from seqsweep.search_spaces.errors import SpaceError
from seqsweep.sweep.engine.hparams import typed_configs
from seqsweep.sweep.errors import ConfigError
from seqsweep.sweep.study.sampling import sample_hparams

NUM_DRAWS = 64


@dataclass(frozen=True)
class UserSpace:
    function: Space
    source_sha256: str  # of the file's bytes, as they were run
    path: Path
    name: str


def load_space(spec: str) -> UserSpace:
    """FILE:NAME, the file relative to the working directory. Raises ConfigError."""
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise ConfigError(f"a space must be FILE:NAME, such as my_space.py:space, got {spec!r}")
    path = Path(file).absolute()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read the space's file {path}: {error.strerror}") from None
    sha256 = hashlib.sha256(source).hexdigest()
    module = _run(path, source, f"seqsweep_user_space_{sha256[:16]}")
    function = getattr(module, name, None)
    if function is None:
        functions = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise ConfigError(f"{path} has no function {name!r}, it has {', '.join(functions) or 'none'}")
    if not callable(function):
        raise ConfigError(
            f"{name} in {path} must be a function of an Optuna trial, got {type(function).__name__} "
            f"{function!r}"
        )
    return UserSpace(function, sha256, path, name)


def check_user_space(space: Space) -> None:
    """Draw from it. Raises ConfigError for the first draw that can't be trained, with what was drawn."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(NUM_DRAWS):
        trial = study.ask()
        try:
            typed_configs(sample_hparams(space, trial))
        # Whatever a user's code raises is told to the user.
        except Exception as error:
            what = str(error) if isinstance(error, ConfigError | SpaceError) else _last_line(error)
            drawn = ", ".join(f"{key}={value}" for key, value in trial.params.items()) or "nothing"
            raise ConfigError(
                f"the space fails at draw {number + 1} of {NUM_DRAWS}, which was {drawn}: {what}"
            ) from None


def _run(path: Path, source: bytes, module_name: str) -> ModuleType:
    """Run exactly the bytes that were read: no compiled file is looked for or left behind."""
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None:
        raise ConfigError(f"a space's file must be Python, with a name in .py, got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up there
    try:
        with _importing_from(path.parent):
            exec(compile(source, str(path), "exec"), module.__dict__)
    # A file of a user may raise anything, and may even exit.
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise ConfigError(f"{path} can't be imported: {_where(error, path)}{_last_line(error)}") from None
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """The file may import its neighbours."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}, "
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"line {lines[-1]}, " if lines else ""


def _last_line(error: BaseException) -> str:
    message = str(error.msg if isinstance(error, SyntaxError) else error)
    return f"{type(error).__name__}: {message}"
