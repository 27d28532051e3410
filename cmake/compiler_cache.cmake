# Compiles through ccache where it is installed. The cache is shared by all build folders and all
# checkouts: paths below the source are given to the compiler relative to the build folder, and the
# name of that folder does not count. What it leaves in the output are the paths of whoever
# compiled a file first, in debug information.
option(IOCP_CCACHE "Compile through ccache where it is installed" ON)

if(NOT IOCP_CCACHE OR CMAKE_CXX_COMPILER_LAUNCHER OR NOT CMAKE_HOST_UNIX)
  return()
endif()
find_program(IOCP_CCACHE_PROGRAM ccache)
mark_as_advanced(IOCP_CCACHE_PROGRAM)
if(NOT IOCP_CCACHE_PROGRAM)
  return()
endif()
# A compiler that is found as a link to ccache, by way of /usr/lib/ccache, needs no launcher.
foreach(language C CXX)
  file(REAL_PATH ${CMAKE_${language}_COMPILER} compiler)
  if(NOT compiler MATCHES "/ccache$")
    set(CMAKE_${language}_COMPILER_LAUNCHER
      env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${IOCP_CCACHE_PROGRAM})
  endif()
endforeach()
