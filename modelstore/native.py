"""Compiled kernels: machine code that is made once, kept on the disk, and loaded without its compiler.

A kernel is a Python function that numba compiles. Importing numba and reading its own cache takes half a second of
every start; so what it made is kept as an object file, which llvmlite alone loads in a few milliseconds. A process
imports numba only when that file is missing: at the set-up (`python -m consumers.warm`), or in the first run after an
update.

Owns the files `MODULE-FUNCTION-KEY.o`, each the SHA-256 of the object and then the object, written under another name
and renamed, so that a reader finds a whole one or none. KEY stands for everything that the code depends on: the
source and the modules that it takes layouts and constants from, the versions of numba and llvmlite, and the processor
with its features. They lie in the `__pycache__` beside the source, or, where that cannot be written, in a directory of
the user's own (`$XDG_CACHE_HOME/red10`, else `~/.cache/red10`). They are code: whoever may write there may run anything
as this user, as with Python's own files.

A damaged file, or one of another processor, is passed over and made anew. Where nothing can be written the kernel is
compiled in each process, which is slow and otherwise the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstore.errors import ModelStoreError

#: What compiled code may take from the process: a name that cannot be resolved would end it.
_FROM_LIBC = frozenset({"memcpy", "memmove", "memset"})
_CODES = {"p": ctypes.c_void_p, "q": ctypes.c_int64}
_DIGEST = 32
#: Changed when the form of the files or the way of calling changes.
_FORM = b"red10 kernel 1"


class KernelUnavailable(ModelStoreError):
    """A compiled kernel is needed, and numba is not installed."""


def address(array: NDArray[Any]) -> int:
    """Where the first element of an array lies; the array must be C-contiguous, and outlive the call."""
    found: int = array.__array_interface__["data"][0]
    return found


def as_array(array: NDArray[Any], dtype: np.dtype[Any] | type) -> NDArray[Any]:
    """The array as C-contiguous memory of a dtype: itself, if it is that."""
    return np.ascontiguousarray(array, dtype)


def installed() -> bool:
    """Whether kernels can be compiled here; nothing is imported."""
    return importlib.util.find_spec("numba") is not None


class Routine:
    """One compiled function, loaded or compiled at its first call; gives up the GIL while it runs.

    Args:
        module: the module that holds its source and imports numba.
        name: the function there. It takes pointers and integers, checks nothing, raises nothing, returns an integer.
        arguments: one letter each: `p` a pointer, `q` an int64.
        takes_from: the modules whose dtypes and constants it uses: a change there makes other code.
    """

    def __init__(self, module: str, name: str, arguments: str, takes_from: Sequence[str] = ()) -> None:
        self.takes_from = tuple(takes_from)
        self.module = module
        self.name = name
        self.arguments = arguments
        self._lock = threading.Lock()
        self._call: Callable[..., int] | None = None
        # What keeps the code in memory.
        self._engine: Any = None

    def __repr__(self) -> str:
        return f"Routine({self.module}.{self.name}, {'ready' if self._call else 'not loaded'})"

    def __call__(self, *arguments: int) -> int:
        """Run it. Pointers come from `address`."""
        call = self._call or self.load()
        return call(*arguments)

    def load(self) -> Callable[..., int]:
        """Load the machine code, compile it first if need be.

        Raises:
            KernelUnavailable: it must be compiled, and numba is not installed.
        """
        with self._lock:
            if self._call is None:
                self._call = self._loaded()
            return self._call

    def _loaded(self) -> Callable[..., int]:
        if not installed():
            raise KernelUnavailable(
                f"the kernel {self.name} of {self.module} needs numba, which is missing: pip install red10[worker]"
            )
        source = _source_of(self.module)
        key = _key([source, *map(_source_of, self.takes_from)], self.name, self.arguments)
        name = f"{self.module.rpartition('.')[2]}-{self.name}-{key}.o"
        for directory in _directories(source):
            code = _read(directory / name)
            if code is not None:
                return self._bind(code)
        compiled = compile_function(self.module, self.name, self.arguments)
        if isinstance(compiled, bytes):
            _keep(source, name, compiled)
            return self._bind(compiled)
        # numba gave what cannot be kept: it is used as it lies in memory.
        self._engine = compiled
        return _plain(compiled.address, self.arguments)

    def _bind(self, code: bytes) -> Callable[..., int]:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        self._engine = engine
        return _numbas(engine.get_function_address(_symbol(self.name)), self.arguments)


def _plain(at: int, arguments: str) -> Callable[..., int]:
    """A C function that returns its result."""
    prototype: Callable[[int], Callable[..., int]] = ctypes.CFUNCTYPE(
        ctypes.c_int64, *map(_CODES.__getitem__, arguments)
    )
    return prototype(at)


def _numbas(at: int, arguments: str) -> Callable[..., int]:
    """A function as numba calls them: `status = f(&result, &exception, …)`; ours never fail."""
    pointers = ctypes.c_void_p, ctypes.c_void_p
    prototype: Any = ctypes.CFUNCTYPE(ctypes.c_int32, *pointers, *map(_CODES.__getitem__, arguments))
    function = prototype(at)
    byref, result_type, pointer_type = ctypes.byref, ctypes.c_int64, ctypes.c_void_p

    def call(*values: int) -> int:
        result, exception = result_type(), pointer_type()
        function(byref(result), byref(exception), *values)
        return result.value

    return call


def compile_function(module: str, name: str, arguments: str) -> Any:
    """Compile a function: its object file, or, if that would need more than the C library, numba's own C callback."""
    import llvmlite.binding as llvm
    import numba

    function = getattr(importlib.import_module(module), name)
    kinds = {"p": numba.types.voidptr, "q": numba.types.int64}
    signature = numba.types.int64(*(kinds[code] for code in arguments))
    bare = numba.njit([signature], nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(
        function
    )
    unit = llvm.parse_assembly(bare.inspect_llvm(bare.signatures[0]))
    entries = [found for found in unit.functions if not found.is_declaration and found.linkage.name == "external"]
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        # As numba chooses it for other processors; some know no large code that lies anywhere.
        reloc="pic" if platform.machine() in ("x86_64", "AMD64") else "default",
        codemodel="jitdefault",
        jit=True,
    )
    if len(entries) == 1 and len(list(entries[0].arguments)) == 2 + len(arguments):
        _leave_only(llvm, unit, entries[0], machine)
        entries[0].name = _symbol(name)
        foreign = {found.name for found in unit.functions if found.is_declaration}
        if all(found.startswith("llvm.") or found in _FROM_LIBC for found in foreign):
            code: bytes = machine.emit_object(unit)
            return code
    return numba.cfunc(signature, nopython=True, error_model="numpy")(function)


def _leave_only(llvm: Any, unit: Any, entry: Any, machine: Any) -> None:
    """Take out of a module what the entry does not need: numba leaves helpers of its runtime that are never called."""
    for found in (*unit.functions, *unit.global_variables):
        if not found.is_declaration and found.name != entry.name:
            found.linkage = "internal"
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.add_strip_dead_prototype_pass()
    passes.run(unit, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))


def _symbol(name: str) -> str:
    return f"red10_{name}"


def _source_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{module} is part of Red10"
    assert spec.origin is not None, f"{module} is a file"
    return Path(spec.origin)


@functools.cache
def _surroundings() -> bytes:
    """What machine code depends on besides its source: the processor, and who makes it."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    processor = f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {','.join(sorted(features.split(',')))}"
    versions = (importlib.metadata.version(library) for library in ("numba", "llvmlite", "numpy"))
    return " ".join((processor, *versions)).encode()


def _key(sources: Sequence[Path], name: str, arguments: str) -> str:
    digest = hashlib.sha256()
    texts = (source.read_bytes() for source in sources)
    for part in (_FORM, *texts, name.encode(), arguments.encode(), _surroundings()):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:32]


def _directories(source: Path) -> Iterator[Path]:
    yield source.parent / "__pycache__"
    # Nobody's home is no reason to fail: the code is compiled then.
    with contextlib.suppress(RuntimeError):
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "red10"


def _read(path: Path) -> bytes | None:
    """The code in a file; `None` if there is none, it is damaged, or others than its owner and root may write it."""
    try:
        with open(path, "rb") as file:
            found, data = os.fstat(file.fileno()), file.read()
    except OSError:
        return None
    trusted = found.st_mode & 0o022 == 0 and found.st_uid in (0, os.geteuid(), path.parent.parent.stat().st_uid)
    code = data[_DIGEST:]
    return code if trusted and code and hashlib.sha256(code).digest() == data[:_DIGEST] else None


def _keep(source: Path, name: str, code: bytes) -> None:
    """Write code down in the first place that takes it."""
    for directory in _directories(source):
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=directory, prefix=name)
            try:
                with open(handle, "wb") as file:
                    file.write(hashlib.sha256(code).digest() + code)
                os.chmod(temporary, 0o644)
                os.replace(temporary, directory / name)
            except OSError:
                os.unlink(temporary)
                raise
        except OSError:
            continue
        _forget_older(directory, name)
        return


def _forget_older(directory: Path, name: str) -> None:
    """Remove code of the same function that was made from other sources; of other processors as well."""
    for old in directory.glob(f"{name.rpartition('-')[0]}-*.o"):
        if old.name != name:
            old.unlink(missing_ok=True)
