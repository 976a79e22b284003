"""The kernels as machine code: compiled once by numba, kept in the user's cache, from then on loaded without importing numba.

Importing numba takes longer than deduplicating 25,000 texts; llvmlite alone links the kept object file in a fraction of that.
The file is named by what it depends on (source, versions, processor) and begins with its own hash. Where nothing can be written
the code is compiled in each process.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from medcot import kernels
from medcot.stage import atomic_file

_ONE_LOADS = Lock()
_DIGEST_SIZE = hashlib.sha256().digest_size


def call(kernel: Callable[..., Any], *arguments: Any) -> None:
    """Run a kernel on numpy arrays and integers, outside Python's global lock.

    Arrays must be C-contiguous and of the types that SIGNATURES names: machine code does not look.
    """
    given: list[int] = []
    for argument, code in zip(arguments, kernels.SIGNATURES[kernel].split(), strict=True):
        if code.endswith("*"):
            assert argument.dtype == np.dtype(code[:-1])
            assert argument.flags.c_contiguous
            given.append(argument.ctypes.data)
        else:
            given.append(int(argument))
    with _ONE_LOADS:
        function = _functions()[kernel.__name__]
    nothing = (ctypes.c_void_p * 2)()
    status = function(ctypes.byref(nothing, 0), ctypes.byref(nothing, ctypes.sizeof(ctypes.c_void_p)), *given)
    assert status == 0


@lru_cache(maxsize=1)
def _functions() -> Mapping[str, Any]:
    """The kernels by name, and the engine that owns their memory."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(_object_code()))
    engine.finalize_object()
    result = {"engine": engine}
    for kernel, signature in kernels.SIGNATURES.items():
        types = [ctypes.c_void_p if code.endswith("*") else ctypes.c_int64 for code in signature.split()]
        # As numba calls it: before the arguments a place for the result and one for an exception; a kernel has neither.
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *types)
        address = engine.get_function_address(kernel.__name__)
        assert address  # a call to 0 would end the process without a word
        result[kernel.__name__] = prototype(address)
    return result


def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, codemodel="jitdefault")


def _object_code() -> bytes:
    """The kept object code, or else the code compiled now, which is kept where that is possible."""
    depends = [Path(kernels.__file__).read_bytes(), Path(__file__).read_bytes(), version("numba").encode(), version("llvmlite").encode()]
    depends += [llvm.get_host_cpu_name().encode(), llvm.get_host_cpu_features().flatten().encode()]
    name = f"kernels-{hashlib.sha256(bytes(1).join(depends)).hexdigest()[:16]}.o"
    places = [directory / name for directory in _directories()]
    for place in places:
        kept = place.read_bytes() if place.is_file() else b""
        if kept and hashlib.sha256(kept[_DIGEST_SIZE:]).digest() == kept[:_DIGEST_SIZE]:
            return kept[_DIGEST_SIZE:]
    code = _compile()
    for place in places:
        try:
            with atomic_file(place) as out:
                out.write_bytes(hashlib.sha256(code).digest() + code)
        except OSError:  # a read-only installation: try the next place, or do without
            continue
        break
    return code


def _directories() -> list[Path]:
    """Where the object code may be kept; what lies there is run as it is, so these are the user's own.

    The cache comes first, because it serves every clone, and every copy of one in which DVC runs an experiment.
    """
    home = os.environ.get("XDG_CACHE_HOME") or (Path(os.environ["HOME"]) / ".cache" if os.environ.get("HOME") else None)
    return [*([Path(home) / "medcot"] if home else []), Path(kernels.__file__).parent / "__pycache__"]


def _compile() -> bytes:
    """Compile all kernels into one object file, in which each has its own name."""
    import numba

    numba.config.DISABLE_JIT = 0  # NUMBA_DISABLE_JIT, which helps to debug other code, would leave nothing to compile
    for helper in kernels.HELPERS:
        numba.extending.register_jitable(helper)
    machine, merged = _machine(), None
    for kernel, signature in kernels.SIGNATURES.items():
        types = [_numba_type(numba, code) for code in signature.split()]
        options: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        compiled = numba.njit(numba.void(*types), **options)(kernel).overloads[tuple(types)]
        module = llvm.parse_assembly(compiled.library.get_llvm_str().replace(compiled.fndesc.llvm_func_name, kernel.__name__))
        if merged is None:
            merged = module
        else:
            merged.link_in(module)
    return bytes(machine.emit_object(merged))


def _numba_type(numba: Any, code: str) -> Any:
    plain = numba.from_dtype(np.dtype(code.rstrip("*")))
    return numba.types.CPointer(plain) if code.endswith("*") else plain
