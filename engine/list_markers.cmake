# Writes `LINE(name)` for every line of SOURCES that starts with `MARKER(name)` or `MARKER(name,`: the generated tables
# of ops, kernels, models and drivers. Run as a script by the build; no list is kept by hand.
cmake_minimum_required(VERSION 3.25)
set(text "")
set(seen "")
foreach(source ${SOURCES})
  file(READ ${source} body) # whole lines would not do: an open bracket in one joins CMake's list elements
  string(REGEX MATCHALL "\n${MARKER}\\([a-z0-9_]+[,)]" markers "\n${body}")
  foreach(marker ${markers})
    string(REGEX REPLACE "\n${MARKER}\\(([a-z0-9_]+)[,)]" "\\1" name "${marker}")
    if(name IN_LIST seen)
      message(FATAL_ERROR "${source}: ${MARKER}(${name}) exists twice")
    endif()
    list(APPEND seen ${name})
    string(APPEND text "${LINE}(${name})\n")
  endforeach()
endforeach()
file(WRITE ${OUT} "${text}")
