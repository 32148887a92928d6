# Run at every build (cmake -P) with SOURCE, OUT, COMPILER, FLAGS, TYPE, SANITIZE: writes OUT when its content changed.
set(sha "")
set(dirty 0)
set(hash "")
find_package(Git QUIET)
if(GIT_FOUND)
  execute_process(COMMAND ${GIT_EXECUTABLE} -C ${SOURCE} rev-parse HEAD OUTPUT_VARIABLE sha ERROR_QUIET
                  OUTPUT_STRIP_TRAILING_WHITESPACE)
  execute_process(COMMAND ${GIT_EXECUTABLE} -C ${SOURCE} diff HEAD -- . ":!results" OUTPUT_VARIABLE diff ERROR_QUIET)
  if(NOT diff STREQUAL "")
    set(dirty 1)
    string(SHA256 hash "${diff}")
  endif()
endif()
string(REPLACE "\"" "\\\"" FLAGS "${FLAGS}")
set(text "#include \"build_info.h\"\n
const tb_build_info tb_build = {
    .git_sha = \"${sha}\",
    .git_dirty = \"${dirty}\",
    .diff_sha256 = \"${hash}\",
    .compiler = \"${COMPILER}\",
    .flags = \"${FLAGS}\",
    .type = \"${TYPE}\",
    .sanitize = \"${SANITIZE}\",
};
")
set(old "")
if(EXISTS ${OUT})
  file(READ ${OUT} old)
endif()
if(NOT text STREQUAL old)
  file(WRITE ${OUT} "${text}")
endif()
