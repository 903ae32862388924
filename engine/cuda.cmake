# Sets RECIS_HAS_CUDA, and has nvcc compile *.cu if it is on.
#
# RECIS_CUDA=AUTO takes the CUDA toolkit that is installed, if one can be used; ON insists on it; PIP
# fetches a compiler from the package index; OFF builds without.

set(RECIS_CUDA AUTO CACHE STRING "CUDA: AUTO, ON, OFF or PIP")
set_property(CACHE RECIS_CUDA PROPERTY STRINGS AUTO ON OFF PIP)

set(RECIS_HAS_CUDA OFF)
if(RECIS_CUDA STREQUAL "OFF" OR RECIS_SANITIZE)  # sanitizers watch the emulated device
  return()
endif()

if(RECIS_CUDA STREQUAL "PIP")
  find_package(Python REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/fetch_cuda.py ${CMAKE_BINARY_DIR}
    OUTPUT_VARIABLE nvcc OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "No CUDA compiler: see above for what to do.")
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
    ${CMAKE_CURRENT_SOURCE_DIR}/cuda_toolkit.txt)
  set(CMAKE_CUDA_COMPILER ${nvcc} CACHE FILEPATH "The CUDA compiler" FORCE)
elseif(NOT CMAKE_CUDA_COMPILER)
  unset(CMAKE_CUDA_COMPILER CACHE)  # one may have been installed since
endif()

# A100, H100, B200, and by the PTX of the last what comes after it.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100)
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(NOT RECIS_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR
      "RECIS_CUDA=${RECIS_CUDA}, but no nvcc was found that can compile for ${CMAKE_CUDA_ARCHITECTURES} "
      "(12.8 and newer can) and works with ${CMAKE_CXX_COMPILER}. "
      "Name one with CMAKE_CUDA_COMPILER, or set RECIS_CUDA to PIP or OFF.")
  endif()
  message(STATUS "Building without CUDA: no nvcc of CUDA 12.8 or newer was found")
  return()
endif()

enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(RECIS_HAS_CUDA ON)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
# The arithmetic of the CPU's kernels, to the bit.
set(cuda_flags -fmad=false -prec-div=true -prec-sqrt=true -ftz=false)
list(JOIN arithmetic_flags "," host_flags)
list(APPEND cuda_flags -Xcompiler=-Wall,-Wextra,${host_flags})
if(RECIS_WERROR)
  list(APPEND cuda_flags -Werror=all-warnings -Xcompiler=-Werror)
endif()
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:${cuda_flags}>")
