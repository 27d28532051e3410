# liburing 2.3 or newer as the target iocp::liburing, if it is found. Included by the build and by the
# installed package; sets LIBURING_FOUND, LIBURING_VERSION and LIBURING_LINKED, which says how.
#
# The static library where there is one, so that what is built with it runs where liburing is not
# installed; unless it is not position independent, as what is built may be a shared object.
find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
  pkg_check_modules(LIBURING QUIET IMPORTED_TARGET "liburing>=2.3")
endif()
if(LIBURING_FOUND AND NOT TARGET iocp::liburing)
  # Beside the shared one: another version's would not fit the header.
  find_library(LIBURING_STATIC NAMES liburing.a NO_DEFAULT_PATH
    PATHS ${LIBURING_LIBRARY_DIRS} ${LIBURING_LIBDIR})
  mark_as_advanced(LIBURING_STATIC)
  if(LIBURING_STATIC)
    include(CheckCXXSourceCompiles)
    set(CMAKE_REQUIRED_LINK_OPTIONS -shared)
    set(CMAKE_REQUIRED_LIBRARIES -Wl,--whole-archive ${LIBURING_STATIC} -Wl,--no-whole-archive)
    check_cxx_source_compiles("int liburing;" LIBURING_STATIC_IS_PIC)
    unset(CMAKE_REQUIRED_LINK_OPTIONS)
    unset(CMAKE_REQUIRED_LIBRARIES)
  endif()

  add_library(iocp::liburing INTERFACE IMPORTED)
  if(LIBURING_STATIC AND LIBURING_STATIC_IS_PIC)
    set(LIBURING_LINKED "linked in")
    target_include_directories(iocp::liburing INTERFACE ${LIBURING_INCLUDE_DIRS})
    target_link_libraries(iocp::liburing INTERFACE ${LIBURING_STATIC})
    # A shared object keeps its liburing to itself: another may be loaded in the same process.
    target_link_options(iocp::liburing INTERFACE LINKER:--exclude-libs,liburing.a)
  else()
    set(LIBURING_LINKED "as a shared library, which must be installed where this runs, too: no static one fits")
    target_link_libraries(iocp::liburing INTERFACE PkgConfig::LIBURING)
  endif()
endif()
