# What makes a memory error harder to exploit, wherever the compiler and the linker have it: a guard
# at the end of stack frames, checked calls of the C library, no jump into the middle of a function,
# tables that are read-only once the program is linked. docs/evidence/performance.md says what it
# costs.
option(IOCP_HARDENING "Compile and link with the compiler's protections" ON)

if(NOT IOCP_HARDENING)
  return()
endif()
include(CheckCXXCompilerFlag)
include(CheckCXXSourceCompiles)
include(CheckLinkerFlag)

function(iocp_compile_if_known flag)
  set(CMAKE_REQUIRED_FLAGS -Werror) # clang takes those of other processors with a warning
  string(MAKE_C_IDENTIFIER "IOCP_HAVE${flag}" known)
  check_cxx_compiler_flag("${flag}" ${known})
  if(${known})
    add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:${flag}>)
  endif()
endfunction()
function(iocp_link_if_known flag)
  string(MAKE_C_IDENTIFIER "IOCP_HAVE_LINKER${flag}" known)
  check_linker_flag(CXX "${flag}" ${known})
  if(${known})
    add_link_options("${flag}")
  endif()
endfunction()

if(MSVC) # /GS, /DYNAMICBASE, /NXCOMPAT and /HIGHENTROPYVA are what it does anyway
  add_compile_options(/guard:cf)
  add_link_options(/guard:cf)
elseif(WIN32)
  foreach(option dynamicbase nxcompat high-entropy-va)
    iocp_link_if_known(-Wl,--${option})
  endforeach()
else()
  foreach(option stack-protector-strong stack-clash-protection cf-protection)
    iocp_compile_if_known(-f${option})
  endforeach()
  iocp_compile_if_known(-mbranch-protection=standard)
  foreach(option relro now noexecstack)
    iocp_link_if_known(-Wl,-z,${option})
  endforeach()
  if(NOT IOCP_SANITIZE) # which check the same calls, and better
    # A C library that does not know level 3 says so with a warning.
    set(CMAKE_REQUIRED_FLAGS "-O2 -Werror -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3")
    check_cxx_source_compiles("#include <cstdio>\nint main() {}" IOCP_HAVE_FORTIFY_3)
    unset(CMAKE_REQUIRED_FLAGS)
    set(level $<IF:$<BOOL:${IOCP_HAVE_FORTIFY_3}>,3,2>)
    # It needs optimization.
    add_compile_options(
      $<$<NOT:$<CONFIG:Debug>>:-U_FORTIFY_SOURCE>
      $<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=${level}>)
  endif()
endif()
