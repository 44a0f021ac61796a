"""Telling a lack of memory from every other failure: libraries have a dozen ways to say it, and a worker must know."""

import mmap

import cv2

# onnxruntime has no class for it: what its kernels throw, and what its allocators say.
_ONNXRUNTIME_SAYS = ("bad_alloc", "Failed to allocate memory")


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether a library failed for want of memory.

    dlib's and NumPy's own errors are MemoryError; a decoder of Pillow's mostly is, or an OSError that says so.
    """
    match error:
        case MemoryError():
            return True
        case cv2.error():
            return error.code == cv2.Error.StsNoMem
        case OSError():
            return "out of memory" in str(error)
    # Known by its name: a decoder is used without that library, too.
    return type(error).__module__.startswith("onnxruntime") and any(said in str(error) for said in _ONNXRUNTIME_SAYS)


def has_room_for(size_bytes: int) -> bool:
    """Whether this process may have so much more memory. Asks the kernel, and touches none of it."""
    try:
        mmap.mmap(-1, max(size_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, OverflowError):
        return False
    return True
