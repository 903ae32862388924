# recis::lmdb (#include "lmdb.h") and recis::xxhash (#include "xxhash.h").
#
# Their sources are fetched at configure time, once a build directory, and linked statically with
# hidden symbols. RECIS_SYSTEM_LMDB and RECIS_SYSTEM_XXHASH take the system's libraries instead.

option(RECIS_SYSTEM_LMDB "Link the system's LMDB, not the pinned one" OFF)
option(RECIS_SYSTEM_XXHASH "Link the system's xxHash, not the pinned one" OFF)

# Sets `<name>_dir` to a directory with these members of the archive pinned as `name`.
function(recis_fetch name)
  find_package(Python REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/fetch_sources.py
            ${CMAKE_BINARY_DIR}/third_party ${name} ${ARGN}
    OUTPUT_VARIABLE dir OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "No source for ${name}: see above for what to do.")
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
    ${CMAKE_CURRENT_SOURCE_DIR}/third_party.txt)
  set(${name}_dir ${dir} PARENT_SCOPE)
  # Whoever passes on a wheel passes on the licences of what is linked into it.
  list(FILTER ARGN INCLUDE REGEX "LICENSE$")
  install(FILES ${dir}/${ARGN} DESTINATION recis/licenses RENAME ${name}.txt)
endfunction()

# Defines recis::<name> as the library `name` that is installed on the system.
function(recis_use_system name)
  find_path(${name}_include ${name}.h REQUIRED)
  find_library(${name}_library ${name} REQUIRED)
  add_library(recis::${name} UNKNOWN IMPORTED)
  set_target_properties(recis::${name} PROPERTIES
    IMPORTED_LOCATION ${${name}_library} INTERFACE_INCLUDE_DIRECTORIES ${${name}_include})
endfunction()

# Defines recis::<name> from C sources in `include`, their warnings silenced: they are not ours.
function(recis_compile name include)
  add_library(${name} STATIC ${ARGN})
  add_library(recis::${name} ALIAS ${name})
  target_include_directories(${name} SYSTEM PUBLIC ${include})
  target_compile_options(${name} PRIVATE -w)
  target_link_libraries(${name} PUBLIC Threads::Threads)
endfunction()

if(RECIS_SYSTEM_LMDB)
  recis_use_system(lmdb)
  # Its file calls are not seen by Env.
  set_property(TARGET recis::lmdb APPEND PROPERTY INTERFACE_COMPILE_DEFINITIONS RECIS_SYSTEM_LMDB)
else()
  recis_fetch(lmdb LICENSE lib/lmdb.h lib/mdb.c lib/midl.h lib/midl.c)
  recis_compile(lmdb ${lmdb_dir}/lib ${lmdb_dir}/lib/mdb.c ${lmdb_dir}/lib/midl.c)
endif()

if(RECIS_SYSTEM_XXHASH)
  recis_use_system(xxhash)
else()
  recis_fetch(xxhash deps/xxhash/LICENSE deps/xxhash/xxhash.h deps/xxhash/xxhash.c)
  recis_compile(xxhash ${xxhash_dir}/deps/xxhash ${xxhash_dir}/deps/xxhash/xxhash.c)
endif()
